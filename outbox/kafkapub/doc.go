// Package kafkapub publishes events to Kafka.
//
// An event's topic is Kafka's topic, its key the record's key, and its partition the one that Java's clients choose for
// that key (murmur2; an event without a key: by its id). The record's time is that of sending: a replayed or long delayed
// event would otherwise fall under the topic's retention at once. ce_time has the event's own.
//
// # Promises
//
// An event is acknowledged when all in-sync replicas have it; set min.insync.replicas to 2 or more on topics that matter.
// Of a key, nothing is sent before what comes before it was acknowledged, but together with it in one batch: a partition
// takes a batch whole or not at all, so that what is sent again from the first unacknowledged event on is in order.
// A lost acknowledgement makes duplicates, never another order: consumers tell them by the event's id.
//
// An event is rejected if it is larger than its topic takes, if its topic is not there ([Fail]), or may not be written to, or
// refuses the record. All other errors blame the way: the caller sends again.
//
// # Settings, and why they are so
//
//   - Requests go through [kafka.Client], one to a partition at a time in a call, and not through kafka.Writer: the Writer
//     mixes calls in its batches, writes a later batch of a partition after an earlier one failed, waits a second for
//     a batch to fill, and tries ten times on its own, after the end of the context too.
//   - acks=all, always.
//   - A request is tried once. The one exception is an answer by which the broker says that it took nothing, as while a new
//     topic's partitions find their leader.
//   - kafka-go has no idempotent producer, so a lost answer followed by a new attempt stores a record twice. Across a crash
//     of the publisher no producer can avoid that.
//   - The partition of a key changes with the number of partitions: what was sent before and after has no order then.
package kafkapub
