// Package integration holds tests in which several processes work the same sagas and are killed, stopped and cut off
// from Postgres meanwhile. It exports nothing.
//
//	process_test.go   a worker as a process of its own, and what may be done to it
//	outside_test.go   the world outside Postgres: an HTTP server that acts once a key
//	saga_test.go      the saga that all tests run
//	world_test.go     a database with that saga, its workers and the outside
//	audit_test.go     what must hold when everything has ended, whatever happened before
//	torture_test.go   a bank under all of that at once, and the proof that nothing was lost (transfer_test.go, wire_test.go)
//	promotion_test.go   its Postgres dies, and a standby takes over
//	diskfull_linux_test.go   its Postgres has no room, for tables or for its WAL
//	clock_linux_test.go      the clock of its Postgres, and those of its processes, jump (testdata/clock.c, wallclock_linux_amd64_test.go)
//	soak_test.go      the same for long: snapshots are held, and tables and processes must not grow
//	part_test.go      a relay or consumers as a process of its own
//	post_test.go      the broker in the test's process that these reach over the wire
//	storm_test.go     consumers of all brokers, which are killed while every message comes several times
//	versions_test.go  two generations of workers, with two versions of one saga
//
// The crash tests, which kill a worker, a relay or a consumer at every point where that could matter, need the build tag failpoint.
package integration
