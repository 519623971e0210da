// Package jobs works sagas: it takes River's jobs and has the engine drive what they hint at.
//
//	Worker.Run
//	├ presence     a session lock and a heartbeat: others see that this worker lives
//	├ river        fetches jobs -> runWorker.Work -> pgengine.Engine.Run
//	└ sweeper      what the dead held goes back, what is due or lost gets a job, deadlines fire
//
// The engine never hears of workers: it writes River jobs into Postgres, and this package reads them there.
//
// River's part is tuned against its defaults, each for a reason: FetchCooldown 1 ms and a poll of 100 ms
// (the defaults, 100 ms and 1 s, cost a chain of five steps a second); a pool of its own with
// synchronous_commit off (a lost claim or completion of a hint is found by the sweeper);
// RescueStuckJobsAfter in years (River's rescuer discards kinds that it does not know, which would kill
// the sagas of a newer version during a rolling deploy); FetchOnlyKnownKinds for the same reason.
package jobs
