package sql

import (
	_ "embed"
)

// Statements of the console, by the file that holds them.
var (
	//go:embed queries/ui_saga_list.sql
	UISagaList string
	//go:embed queries/ui_saga_open.sql
	UISagaOpen string
	//go:embed queries/ui_saga_archived.sql
	UISagaArchived string
	//go:embed queries/ui_open_count.sql
	UIOpenCount string
	//go:embed queries/ui_oldest.sql
	UIOldest string
	//go:embed queries/ui_recent.sql
	UIRecent string
	//go:embed queries/ui_backlog.sql
	UIBacklog string
	//go:embed queries/ui_messages.sql
	UIMessages string
	//go:embed queries/no_jit.sql
	NoJIT string
	//go:embed queries/ui_names.sql
	UINames string
	//go:embed queries/ui_versions.sql
	UIVersions string
)
