package sql

import (
	_ "embed"
)

// Statements of the limits, by the file that holds them.
var (
	//go:embed queries/limit_enter.sql
	LimitEnter string
	//go:embed queries/limit_leave.sql
	LimitLeave string
	//go:embed queries/sweep_limits.sql
	SweepLimits string
	//go:embed queries/sweep_lines.sql
	SweepLines string
)
