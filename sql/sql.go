package sql

import (
	_ "embed"
)

// Statements, by the file that holds them.
var (
	//go:embed queries/migrate_ground.sql
	migrateGround string

	//go:embed queries/start.sql
	Start string
	//go:embed queries/command.sql
	Command string
	//go:embed queries/command_take.sql
	CommandTake string
	//go:embed queries/command_unpark.sql
	CommandUnpark string

	//go:embed queries/tx_idle_limit.sql
	TxIdleLimit string
	//go:embed queries/lane_begin.sql
	LaneBegin string
	//go:embed queries/lane_peek.sql
	LanePeek string
	//go:embed queries/lane_take.sql
	LaneTake string
	//go:embed queries/lane_mine.sql
	LaneMine string
	//go:embed queries/lane_list.sql
	LaneList string
	//go:embed queries/lane_dissolve.sql
	LaneDissolve string
	//go:embed queries/lane_hand_back.sql
	LaneHandBack string
	//go:embed queries/saga_lock.sql
	SagaLock string
	//go:embed queries/saga_get.sql
	SagaGet string
	//go:embed queries/saga_list.sql
	SagaList string
	//go:embed queries/saga_ended.sql
	SagaEnded string
	//go:embed queries/step_list.sql
	StepList string
	//go:embed queries/step_detail.sql
	StepDetail string
	//go:embed queries/attempt_list.sql
	AttemptList string
	//go:embed queries/settle.sql
	Settle string
	//go:embed queries/settle_first.sql
	SettleFirst string
	//go:embed queries/settle_next.sql
	SettleNext string
	//go:embed queries/lane_move.sql
	LaneMove string
	//go:embed queries/lane_move_first.sql
	LaneMoveFirst string
	//go:embed queries/lane_end.sql
	LaneEnd string
	//go:embed queries/saga_complete.sql
	SagaComplete string
	//go:embed queries/retry_later.sql
	RetryLater string

	//go:embed queries/definition_get.sql
	DefinitionGet string
	//go:embed queries/definition_put.sql
	DefinitionPut string
	//go:embed queries/definition_unfinished.sql
	DefinitionUnfinished string

	//go:embed queries/worker_register.sql
	WorkerRegister string
	//go:embed queries/worker_beat.sql
	WorkerBeat string
	//go:embed queries/worker_forget.sql
	WorkerForget string
	//go:embed queries/worker_list.sql
	WorkerList string

	//go:embed queries/sweep_dead.sql
	SweepDead string
	//go:embed queries/sweep_hints.sql
	SweepHints string
	//go:embed queries/sweep_lost.sql
	SweepLost string
	//go:embed queries/sweep_deadlines.sql
	SweepDeadlines string
	//go:embed queries/sweep_due.sql
	SweepDue string
	//go:embed queries/sweep_unknown.sql
	SweepUnknown string
	//go:embed queries/stray_lanes.sql
	StrayLanes string
	//go:embed queries/stray_jobs.sql
	StrayJobs string
	//go:embed queries/stray_job_release.sql
	StrayJobRelease string

	//go:embed queries/wake.sql
	Wake string

	//go:embed queries/outbox_insert.sql
	OutboxInsert string
)
