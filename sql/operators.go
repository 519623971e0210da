package sql

import _ "embed"

// Statements of operators' acts, and of their audit.
var (
	//go:embed queries/ask.sql
	Ask string
	//go:embed queries/audit_answer.sql
	AuditAnswer string
	//go:embed queries/audit_begin.sql
	AuditBegin string
	//go:embed queries/audit_list.sql
	AuditList string
	//go:embed queries/audit_repair.sql
	AuditRepair string
	//go:embed queries/lane_waiting.sql
	LaneWaiting string
	//go:embed queries/saga_pause.sql
	SagaPause string
	//go:embed queries/saga_resume.sql
	SagaResume string
	//go:embed queries/saga_abandon.sql
	SagaAbandon string
	//go:embed queries/message_list.sql
	MessageList string
	//go:embed queries/restart.sql
	Restart string
	//go:embed queries/restart_links.sql
	RestartLinks string
)
