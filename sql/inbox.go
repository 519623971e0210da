package sql

import (
	_ "embed"
)

// Statements of the inbox, by the file that holds them.
var (
	//go:embed queries/inbox_claims.sql
	InboxClaims string
	//go:embed queries/inbox_unclaim.sql
	InboxUnclaim string
	//go:embed queries/inbox_took.sql
	InboxTook string
	//go:embed queries/inbox_fail.sql
	InboxFail string
	//go:embed queries/inbox_failure_forget.sql
	InboxFailureForget string
	//go:embed queries/inbox_failure_stale.sql
	InboxFailureStale string

	//go:embed queries/inbox_dead_put.sql
	InboxDeadPut string
	//go:embed queries/inbox_dead_again.sql
	InboxDeadAgain string
	//go:embed queries/inbox_dead_list.sql
	InboxDeadList string
	//go:embed queries/inbox_dead_redrive.sql
	InboxDeadRedrive string
	//go:embed queries/inbox_dead_wanted.sql
	InboxDeadWanted string
	//go:embed queries/inbox_dead_done.sql
	InboxDeadDone string
	//go:embed queries/inbox_dead_drop.sql
	InboxDeadDrop string

	//go:embed queries/inbox_offset_load.sql
	InboxOffsetLoad string
	//go:embed queries/inbox_offset_save.sql
	InboxOffsetSave string
	//go:embed queries/inbox_offset_reset.sql
	InboxOffsetReset string
	//go:embed queries/inbox_make_partitions.sql
	InboxMakePartitions string
	//go:embed queries/inbox_consumer_put.sql
	InboxConsumerPut string
	//go:embed queries/inbox_status.sql
	InboxStatus string
	//go:embed queries/inbox_status_consumers.sql
	InboxStatusConsumers string
	//go:embed queries/inbox_rate_take.sql
	InboxRateTake string
	//go:embed queries/trigger_lock.sql
	TriggerLock string
	//go:embed queries/trigger_running.sql
	TriggerRunning string

	//go:embed queries/inbox_retention.sql
	InboxRetention string
	//go:embed queries/inbox_cleanup_lock.sql
	InboxCleanupLock string
	//go:embed queries/inbox_cleanup_unlock.sql
	InboxCleanupUnlock string
	//go:embed queries/inbox_floor_raise.sql
	InboxFloorRaise string
	//go:embed queries/inbox_droppable.sql
	InboxDroppable string
	//go:embed queries/inbox_detach.sql
	InboxDetach string
	//go:embed queries/inbox_detach_finalize.sql
	InboxDetachFinalize string
	//go:embed queries/inbox_drop_partition.sql
	InboxDropPartition string
	//go:embed queries/inbox_foreign_consumers.sql
	InboxForeignConsumers string
	//go:embed queries/inbox_foreign_delete.sql
	InboxForeignDelete string
	//go:embed queries/inbox_failure_cleanup.sql
	InboxFailureCleanup string
)
