package sql

import (
	_ "embed"
)

// Statements of the schedules, by the file that holds them.
var (
	//go:embed queries/schedule_now.sql
	ScheduleNow string
	//go:embed queries/schedule_put.sql
	SchedulePut string
	//go:embed queries/schedule_delete.sql
	ScheduleDelete string
	//go:embed queries/schedule_list.sql
	ScheduleList string
	//go:embed queries/schedule_lock.sql
	ScheduleLock string
	//go:embed queries/schedule_pause.sql
	SchedulePause string
	//go:embed queries/schedule_resume.sql
	ScheduleResume string
	//go:embed queries/schedule_wait.sql
	ScheduleWait string
	//go:embed queries/schedule_due.sql
	ScheduleDue string
	//go:embed queries/schedule_fired.sql
	ScheduleFired string
	//go:embed queries/schedule_failed.sql
	ScheduleFailed string
)
