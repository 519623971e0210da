// Package kafkasub is a source of messages for package inbox: a member of a Kafka consumer group.
//
//	group      gives this member partitions, for one generation
//	 ├ reader  one a partition: batch after batch, as far as Fetch takes them
//	 ├ Fetch   hands messages out
//	 └ Ack     after the consumer's commit: commits the offset up to which all were acked
//
// # Promises
//
// A message is delivered at least once, those of a partition in their order. An offset is committed when all before it were acked, so
// that nothing is lost by acks in another order. Of a generation that has ended nothing is delivered or committed any more: its
// deliveries are revoked, and the broker refuses offsets of an old generation anyhow. So a rebalance makes duplicates, and package
// inbox finds them.
//
// A record without a CloudEvent in it counts by its place: topic, partition, offset, and its time, as a topic
// that is made anew has the same offsets for other records.
//
// # Settings, and why they are so
//
//   - kafka.ConsumerGroup and kafka.Conn instead of kafka.Reader: a Reader hands out messages of the generation before, and may
//     commit offsets of the generation before in the name of the next.
//   - A new group begins with the oldest message. So does one whose offset lies beyond the end of the log, as after a topic was
//     made anew: what was handled before is found by the inbox. An offset whose record retention has deleted goes on with the oldest
//     that is left, and the log says how many were lost.
//   - That a topic was made anew is seen by its end alone. Kafka forgets the group's offsets with the topic; for offsets in Postgres, reset them
//     (inbox.Offsets.Reset) before more is sent than the old topic had.
//   - Transactions of producers are respected by half. The broker is asked for committed records: those of a transaction that is open,
//     and what lies behind them, come when it has ended. But it leaves it to the reader to drop the records of aborted transactions and the
//     markers of their ends, and kafka.Conn does not: it tells neither from other records. So a topic that a producer with a
//     transactional.id writes to gives all records of aborted transactions as if they were committed, and each marker as
//     a message with a key of 4 bytes and a payload of 6. Do not read such a topic with this package. Package kafkapub makes no transactions.
//   - Offsets may be kept in Postgres (Config.Offsets): each generation begins where they say, whatever the group's offsets say, which expire
//     with the group's last member. They are saved after the commits that they tell of, not with them: the claims of the
//     inbox are what makes a message count once, and an offset that is a little behind is then as good.
//   - Release does nothing. Kafka gives back nothing but everything: Close does.
package kafkasub
