// Package outbox gets messages to a broker: written in the transaction they tell of, they leave if it commits, and
// only then, at least once, and in the order of their key.
//
//	Publish           your tx: a row of pgsagaz.outbox a message
//	 │ commit         the messages exist; a wake follows the commit
//	 ├► in this process                  ─┐
//	 ├► NOTIFY, coalesced, tx of its own ─┤ one of these, at the latest the poll
//	 └► poll: 5 ms while busy, 100 or 500 ┘
//	 ▼
//	Relay.loop        decides: what to read, what to send, what to hold
//	 ├ session.read   what committed since the last snapshot, of this relay's buckets, in the order of ids
//	 ├ lanes          one call of the Publisher a lane at a time; a bucket is always in the same lane
//	 │  ▼ acks        page by page: all done?
//	 ├ session.save   how far each cursor has come, ten times a second
//	 └ session.put    an event that the broker rejects, and those of its key behind it, leave the stream
//	Relay.beat        lives; takes over from the dead; shares buckets with those that join
//	Relay.maintain    messages that fall due, or whose writer did not publish them; the next slot, the archive, the limit
//
//	Direct            instead of all that, for messages without an order: published by the goroutine that commits
//
// # What is promised
//
//   - No event without its commit. Publish forces synchronous_commit on: what Postgres could forget is not sent.
//   - Every committed event is sent at least once, whatever dies. Consumers see some of them twice: after a lost answer, a
//     crash, or a relay that was taken for dead.
//   - Events of one key arrive first in the order in which their transactions were serialised: one began to publish after the
//     other had committed, or both took a lock before Publish, such as the row of what the message tells of. Writers that share no
//     lock have no order; Message.Serialize gives them one. A message that is not due yet (NotBefore) takes its place when it is.
//   - A broker that fails is waited for: it burns no attempt, nothing is given up. An event that the broker rejects holds back its
//     own key only.
//   - All of this without NOTIFY too. A lost wake costs a poll.
//
// # Why it is so
//
// Reading. Ids are drawn before the commit, so that "id > last" loses what commits late; reading in the order of transaction ids
// turns two events of a row around, when the second writer had its transaction id first, and stops behind any long transaction of the
// whole server. So a cursor is a snapshot: a batch is what the snapshot of now sees and that of before did not, in the order of ids. If an
// event precedes another of its key, each snapshot that sees the second sees the first. A batch larger than a page is read page by page by
// id; the cursor then has three parts: before, now, last id.
//
// A snapshot held in memory is good only on the session that took it: a crash of Postgres hands out transaction ids again that had left no trace
// on the disk. So the session that takes snapshots also writes cursors, and a new session begins with what is persisted. What is persisted is
// always good, even if written without waiting for the disk: the transaction that wrote it has a higher id than all that its snapshots
// see. In another cluster, after a restore, all ids mean nothing; outbox_rebase sends everything that is retained again.
//
// Storing. Rows are inserted and nothing else, into one of four slots; a slot is truncated when every row in it lies behind the cursor of its
// bucket. So a snapshot that somebody holds for hours makes nothing slow. (Rows that are updated or deleted one by one stay until that snapshot
// is gone, and each read walks over them: 5,900 events/s and falling, against 149,000.) That no row slips in between the look
// and the TRUNCATE is proved under a lock that is taken, never waited for: see outbox_truncate.
//
// Sharing. A key is in one of 256 buckets, for ever. Buckets that have been read equally far share a cursor, a row of outbox_cursor, and who
// holds the row's epoch reads, publishes and writes it. An epoch belongs to one session of one relay; a relay that has not beaten for its lease is
// buried by whoever notices, its cursors are free, and its late writes match no row. What it still sends is an event that its successor
// sends too, and the order of first arrivals stays. A relay that joins is given its share: the place in the stream up to
// which a bucket is still the old owner's is marked, and the bucket changes hands when all before the mark is done.
//
// Waking. A NOTIFY inside a transaction holds a lock of the whole server while it commits: 415 commits/s against 12,800. So
// it is sent after the commit, from another transaction, at most once in some milliseconds ([sql.WakeOnCommit]).
// What a wake causes to be published at once is what [Optimistic] configures and measures.
//
// Publishing after the commit. The committing goroutine publishes only where it is asked to, and without order ([Direct]): two publishers
// of one stream need a claim on each row, which is what the stream has none of. So these messages lie in a table of
// their own, leased to their writer by a time in the row: a row that is there was not acknowledged, and one whose
// lease has ended joins the stream. Kept in the stream they would need a word to whichever relay reads it that they are
// gone already; kept among the scheduled ones, whose index of due times is read all the time, each would leave a dead entry on that
// path for as long as anybody holds a snapshot. Here the dead rows lie in two slots that take turns of some seconds, and a slot
// without live rows is truncated, snapshot or not. It costs a look before and a DELETE after the publishing, shared by the
// calls that come together, and saves the read: 0.5 ms from the commit to the acknowledgement instead of 0.7 in the relay's own
// process, 3.6 in another.
//
// Failing. [RejectedError] blames the event. It and those of its key behind it move to outbox_stuck, from where they are tried again; the
// row stays, done, until the cursor has passed the event's place in the stream, so that no restart meets it there again. After its last attempt
// it is a dead letter. Any other error blames the broker: the lane waits, 10 ms to 1 s, and sends the same again; where only some
// keys fail, as when a topic or a partition is away, those wait in lanes of their own and others go on. What waits there longer keeps its place in
// memory and not its body, up to a quarter of a million events; beyond that the others wait too.
package outbox
