// Package interleave runs the races of the engine, the outbox and the inbox statement by statement, in every order that Postgres
// allows, or in as many as there is time for.
//
// A race has up to three actors, A, B and C. Each is a piece of the project as it is: a worker that settles a step, an operator's cancel, the
// sweeper, a relay's reader. It runs in a goroutine of its own, on connections of its own, and knows nothing of the test: between its connection and
// Postgres stands a gate, which reads the protocol and holds every statement back until it is let through, those of a
// pipeline too, one by one.
//
//	actor A ─► pgx ─► gate ─► Postgres      INSERT ... | UPDATE ... | COMMIT
//	actor B ─► pgx ─► gate ─► Postgres      SELECT ... FOR NO KEY UPDATE | ...
//	                   ▲
//	                explorer: lets one statement through, and looks again when all stand still
//
// A merge is the order in which statements were let through, written as a word such as AABBAC. When the explorer has let one through it waits
// until every actor stands at its gate again, has ended, or waits for a lock of one that stands: this it asks Postgres
// (pg_blocking_pids), and no clock. Then it chooses again among those at their gates. Whoever waits goes on by himself when
// the lock is free, as he does in life. A deadlock is left to Postgres, and to the actor that gets its error.
//
// So the merges of a race form a tree, whose branches are the choices. It is walked without a merge coming twice, in an order that -seed says; a
// race of which all merges were run is known by that. What comes after depends on what actors do there: who finds that
// he has lost sends other statements than who has won.
//
// Each merge begins with rows of its own (a new saga, a new event) in the same database. At its end the race says what must hold, and what is left is driven to its end
// by the sandbox of package pgenginetest: no saga may be left behind. At the end of the test the database itself is asked (sql.Check).
//
// BEGIN is no choice, nor is what concerns the session alone (SET): nobody else sees it. The end of a transaction is one, also where no BEGIN was sent and
// a statement, or a pipeline, is a transaction by itself; unless that has only read. Three things are not taken apart: what a function of the database does inside, a
// simple query (as pgx sends what has no parameters) and its commit, and what goes on in an actor between two statements.
//
//	go test ./integration/interleave                                            # so many merges of each race
//	go test ./integration/interleave -all                                       # all of them
//	go test ./integration/interleave -merges 5000 -seed 7                       # more, and others
//	go test ./integration/interleave -v -run '^TestMergesJoin$' -merge AABBC # this one, with its statements
package interleave
