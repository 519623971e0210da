// Package inbox gives messages that arrive at least once an effect that happens exactly once.
//
//	broker ─► Source.Fetch ─► Consumer ─► one transaction ─► commit ─► Source.Ack
//	                                       │
//	                                       ├ claim     INSERT ... ON CONFLICT DO NOTHING into consumer_inbox
//	                                       ├ Handler   yours: your tables, sagas, messages for the outbox
//	                                       └ duration
//
// The claim and what the handler writes are in one transaction: both are there, or neither is. That is the
// whole idea, and everything else keeps it true, fast and visible:
//
//	Claim      in your own transaction: is this the first time? pgsagaz.inbox_claim is the same for psql and others
//	Process    one message in one transaction
//	Consumer   a broker's messages: batches, order, retries, dead letters, retention
//	Webhook    a Source whose messages come by HTTP
//
// # What is promised
//
//   - An event takes effect exactly once for each consumer name, however often and wherever at once it is
//     delivered, and whoever dies meanwhile. Other consumers have nothing to do with it.
//   - A duplicate of an event that is being handled waits for its outcome, and then is skipped, or handled if
//     the first failed. A lock timeout is an error, and never "duplicate".
//   - A message is acked after the commit that dealt with it, never before. A lost ack costs a duplicate.
//   - Messages of one key are handled in the order of their delivery, also across a failure (unless Config.MoveOn), while
//     other keys go on. A redriven dead letter has no order.
//   - A message that cannot be handled ends among the dead letters, whole and with its reason, and not before it has
//     failed alone. Deadlocks, serialization failures and lost connections are no failures of a message.
//   - What is older than the inbox remembers is refused where one can see it, and not processed again.
//   - Not promised: that a handler runs once. It may run many times, and all but one are rolled back; what it does outside of its
//     transaction is its own affair. Nor that an event with an id of its own make, and no known time, is remembered for
//     longer than the retention.
//
// # Ids
//
// consumer_inbox is partitioned by the time in a UUIDv7, so that what is old is dropped and not deleted. Ids of any
// other make become hashes, with the source that made them, in a partition of their own. Which is which depends on
// the id alone, and on no clock: an id that was plausible yesterday and is not today would be two events.
//
// There is no DEFAULT partition. A row in it would stand in the way of the partition that it belongs to. Partitions
// are made a week ahead by a running Consumer and by [Cleanup]; a claim that finds none makes it, within 31 days
// from now, in its own transaction, and that shows in [Status] and in the server's log. The first partition reaches
// back to 2020: a topic may be older than its consumer.
//
// # Forgetting
//
// [Cleanup] raises a floor, commits that, and then drops what lies below. Every claim reads the floor in its own transaction.
// Walk through the race: a claim reads the old floor; the floor is raised; the partition is to be dropped. DETACH
// CONCURRENTLY waits for the claim if it has touched the table, and blocks nobody. If it has not, its INSERT finds no
// partition, fails, and the next try reads the new floor. A foreign id's entry is deleted, so the claim looks
// at the floor once more after its INSERT: if its entry had gone, the floor had been raised before, and is seen now.
// (A transaction above READ COMMITTED has an old snapshot: it locks the floor, and fails if it has moved.)
//
// The retention may not be shorter than what a consumer's broker may deliver again (Config.Horizon).
//
// # Batches
//
// A commit is what costs, so a Consumer puts many messages into one transaction. Their claims are one INSERT sorted
// by id: two batches of the same events in opposite orders then wait one way round, and do not deadlock. When a
// handler fails, what comes before it is done again and committed, it is tried alone, and what follows goes on; when
// nobody knows who it was, as when the COMMIT fails, the batch is halved until one is alone. Attempts are counted in a
// transaction of their own, as that of the failed one has gone. A slow handler ends its batch (Config.BatchTime):
// the claims of the others are taken back.
//
// A process that dies of a message cannot count. So a message that the broker says it has delivered ten times is
// handled alone, and its attempt is counted before.
//
// # How a Consumer is made
//
//	fetch      one goroutine; stands still while the gate is shut: the back-pressure
//	lanes      Workers of them; a key is always in the same one, which handles its messages one transaction at a time
//	 └ holds   messages that failed wait here for their next attempt, and what follows on their key behind them
//	gate       counts what was fetched and is not dealt with: memory stays bounded
//	upkeep     partitions, cleanup, lag, and failures that are over
//	redrives   looks for dead letters to be handled again: each as a new attempt, under an id of its own
//
// All of them end before Run returns.
package inbox
