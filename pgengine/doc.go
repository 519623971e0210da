// Package pgengine is the saga engine: what a saga is, and how it is started, driven, undone and read.
//
// A saga is a directed acyclic graph of steps over one input ([Saga]). A step works in Postgres ([TxStep]),
// calls the outside ([Activity]), waits for a signal ([Await]) or a time ([Sleep]), or runs other sagas ([Child],
// [Each]). When a step has failed for good, every step that is done is undone, those that came after it first; unless
// the saga is past its pivot, from where it only goes forward.
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
// Files: saga.go, step.go, await.go, child.go, strategy.go and call.go are what users write; node.go is a step
// without its types, graph.go checks the whole, plan.go decides, public.go shows it to tools. run.go is the loop:
// take.go takes a lane, perform.go calls the step, fuse.go several in one
// transaction, waits.go and children.go put it to rest, settle.go records what
// came of it, fail.go what did not, late.go what came too late; control.go asks, obey.go applies what was asked,
// halt.go cuts steps off. locked.go reads under the lock; transient.go tells the database's trouble from a failure.
// outline.go tells what a definition will do without running it: matrix.go its faults, by rehearsals of plan
// (rehearsal.go, skeleton.go). schedule.go starts sagas by the clock: cron.go knows the slots, fire.go starts what is due.
// limit.go and line.go let steps and sagas through, as their limits say; hooks.go tells of what happens.
// docs/semantics.md lists every state and every way between them.
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
//   - Fused TxSteps ([Saga.Fuse]) take the saga's lock in the statement that commits them, and not before: it is held
//     as short as that of one step. Each stands behind a savepoint, which travels with the step's first statement. What
//     goes wrong with the whole has them done again, one by one, so that the step to blame is found.
//   - A TxStep that comes to its commit when its saga has begun to turn back is rolled back: that undoes it
//     for nothing. An Activity's result is recorded, and undone.
//   - An Activity in doubt is looked up, or repeated with its key, before it is undone; a result that
//     arrives after its undo reopens the saga under a new generation, and is undone again.
//   - Retries, leases, sleeps, timeouts and deadlines go by the database's clock.
//   - A step that waits holds no worker: its lane rests, with a time or without. Signals, ends of children and
//     operators' decisions reach a saga as commands, which are applied under its lock; so does the look of a
//     step that is about to wait. Either sees the other, and no wake-up is lost.
//   - A When is asked by the lane that has come to its step, not by the commit before it: it may fail, panic and
//     take its time, and none of that happens under a lock. A skipped step costs a commit.
//   - Schedules have no leader. The slot is the fence: a schedule's sagas are started, and its next slot is written, in
//     one transaction under its row's lock, and the sagas' start keys are made of the slot.
//   - A place under a limit is held by the lane's token at its step: the commit that takes these away frees it, whatever
//     the reason, and no step pays for a release. Who waits is called in a transaction of its own, after that commit.
//     The line's row is locked after the saga's and the lane's, and under it other lanes are locked only where nobody
//     holds them: so that nobody waits in a circle.
//   - No transaction waits for one saga while it holds another. A child is started by inserting it; it tells its parent of its end, and
//     is told to turn back, by commands. What settles several sagas at once passes over those that somebody holds.
//   - Activities of several sagas that end at about the same time are settled in one commit (together.go), which halves what a
//     step costs under load: of five that do nothing 0.8 to 0.9 of the floor's sagas a second instead of 0.5. Who comes alone goes
//     alone, at once. With one commit under way at a time it is slower at 16 in flight, and with three no faster at any number. Sharing the commits
//     that begin sagas, too, and the looks of those who wait for their ends, gained nothing that could be told from noise.
//   - A pivot in doubt is never undone by guess: it is repeated with its key, looked up, or left to an operator,
//     and nothing is undone before it is known. So a cancel waits for it.
//   - FailFast cancels contexts by a NOTIFY to the workers' own sessions, and again by each worker's look at what
//     it drives, twice a second: the message is only faster.
package pgengine
