// Package sql is every statement pgsagaz sends to Postgres, and the schema they work on.
//
// The schema is named pgsagaz and holds our tables and River's. Its tables, and who moves what:
//
//	definition  what sagas there are: written when a worker registers
//	saga        one row a saga: start inserts it; settle changes its state, and locks it otherwise
//	start_key   one saga a key
//	lane        a claim on one step at a time, moved by the commit that ends a step
//	step        outcomes, inserted once each
//	attempt     attempts that failed
//	command     what was asked from outside: inserted by anybody, applied and deleted by the engine
//	child, signal  the sagas that a step has started, and what a saga was told
//	archive     sagas that have ended, one row each, in partitions by the day
//	worker      who is alive
//	outbox      messages for brokers: inserted by anybody, truncated slot by slot; outbox_* is how far relays have come
//	consumer_inbox  events that consumers have taken, in partitions; inbox_* is what goes with it: the floor
//	            below which events are refused, failures, dead letters
//	river_*     River's; a job is a hint that a lane can be driven, and never the truth
//
// One order of locks holds everywhere: claims of the inbox, the user's rows, the saga's row, its lanes and steps, the outbox,
// River's jobs. No transaction locks two sagas.
//
// The functions in migrations/ raise SQLSTATEs of their own, see [State]. They live in the database so
// that a step's end is one statement that travels with its COMMIT, and so that psql and other languages
// start sagas just as Go does.
//
// Statements are files in queries/, one each, embedded into a variable of the same name.
//
// NOTIFY never goes out inside a transaction that writes: its lock is held over the flush of the commit
// and shared by the whole instance (measured: 415 commits/s against 12,800 at a flush of 2 ms). A [Waker]
// sends it afterwards, coalesced, in a transaction of its own that writes nothing.
package sql
