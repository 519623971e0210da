// Package pgengine is the saga engine: what a saga is, and how it is started, driven, undone and read.
//
// A saga is a directed acyclic graph of steps over one input ([Saga]). A step works in Postgres
// ([TxStep]) or calls the outside ([Activity]). When a step has failed for good, every step that is done is
// undone, those that came after it first.
//
// # What is promised
//
//   - A TxStep's writes, its result, its outbox messages and the schedule of what follows commit together
//     or not at all: exactly once, however often it is tried, whoever crashes.
//   - An Activity's Do and Undo are called at least once, always with the same key; its result, what its
//     Commit writes and its messages are recorded exactly once.
//   - A saga ends [Completed] (every step is done) or [Compensated] (every done step is undone), or
//     stands visibly [Stuck]. It is never lost: what a dead worker held is taken over within two seconds.
//
// # How it works
//
//	Start            in the caller's transaction: a saga row, a lane and a River job
//	 │ commit
//	 ▼
//	Run              package jobs hands over the job; it is a hint that a lane can be driven
//	 ├ take          the lane is this worker's, fenced by a token
//	 ├ Do, Undo      the step's own
//	 ├ lock          the saga's row, late and short
//	 ├ plan          pure: graph + what is known -> go on, schedule, undo, wait, or finish
//	 └ settle        outcome, the lane's next step, jobs of what else is ready; COMMIT
//
// A lane is a claim on one step at a time. The commit that ends a step moves it to the next, so that a
// chain costs one River job, one commit a step, and one round trip a step beyond its own statements. Other
// branches leave as jobs; a fan-in is continued by whoever arrives last.
//
// Files: saga.go, step.go and call.go are what users write; graph.go checks it; plan.go decides. run.go is
// the loop: take.go takes a lane, perform.go calls the step, settle.go records what came of it, fail.go what
// did not, late.go what came too late; obey.go applies commands. locked.go reads under the lock; transient.go
// tells the database's trouble from a failure.
//
// # Why it is so
//
//   - The saga's row is locked FOR NO KEY UPDATE and read in later statements. Locking and reading in one
//     statement misses 717 fan-ins of 1,000; a shared lock starves a canceller for ten seconds.
//   - The lane's token is the fence, not River: River's JobCompleteTx commits for a zombie and says nothing.
//   - Control calls ([Engine.Cancel], [Engine.Retry]) lock nothing. They leave a command that the engine
//     applies in a transaction of its own, and its job has a queue of its own.
//   - The first step of a saga, if it is a TxStep, is done before its lane is taken: its commit takes it.
//     That saves one commit a saga. A worker that dies at it has the job come again, and then the lane is
//     taken first, so that crashes are counted.
//   - A TxStep that comes to its commit when its saga has begun to turn back is rolled back: that undoes it
//     for nothing. An Activity's result is recorded, and undone.
//   - An Activity in doubt is looked up, or repeated with its key, before it is undone; a result that
//     arrives after its undo reopens the saga under a new generation, and is undone again.
//   - Retries, leases and deadlines go by the database's clock.
package pgengine
