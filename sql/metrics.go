package sql

import (
	_ "embed"
)

// Statements of the figures of the whole system, by the file that holds them.
var (
	//go:embed queries/metrics_lead.sql
	MetricsLead string
	//go:embed queries/metrics_resign.sql
	MetricsResign string
	//go:embed queries/metrics_limit.sql
	MetricsLimit string
	//go:embed queries/metrics_read.sql
	MetricsRead string
)
