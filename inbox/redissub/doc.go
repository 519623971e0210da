// Package redissub is a source of messages for package inbox: a consumer of a group of Redis Streams.
//
//	Fetch   first what this consumer held before it lost its connection, then what others have abandoned, then new entries
//	keeper  tells Redis every now and then that what was fetched is still held
//	Ack     after the consumer's commit: XACK
//
// # Promises
//
// A message is delivered at least once: an entry stays with its consumer until it is acked, and passes to another when nobody has
// touched it for Config.ClaimAfter. A consumer that works long on an entry keeps it, a dead one does not. An entry that was taken
// over is revoked here as soon as that is seen. Redelivered is Redis's own count.
//
// Entries of a stream come in their order, to one consumer. Several consumers of a group share a stream entry by entry, so that the
// order of a key holds only for streams that have one consumer at a time. Where it matters give each consumer streams of its own, and
// a name (Config.Consumer) that its successor has too: after a crash the successor then begins with what its predecessor
// held. Under another name it takes that over when ClaimAfter has passed, and goes on with newer entries meanwhile.
//
// After a lost connection all that was fetched is revoked and delivered again: package inbox finds the duplicates.
//
// An entry without a CloudEvent in it counts by its place: stream and entry id.
//
// # Settings, and why they are so
//
//   - A new group begins with the oldest entry that is there.
//   - A read of new entries goes on when a Fetch is given up, and the next Fetch has its answer: an answer that nobody waits for
//     would lie with this consumer, unseen.
//   - Close and Release make entries claimable at once. A consumer's name is removed when it holds nothing.
//   - What MAXLEN or XDEL took away before it was acked is lost, as Redis means it; the log tells of what was noticed.
package redissub
