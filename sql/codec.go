package sql

import (
	_ "embed"
)

// Statements of package codec, by the file that holds them.
var (
	//go:embed queries/data_key_get.sql
	DataKeyGet string
	//go:embed queries/data_key_of.sql
	DataKeyOf string
	//go:embed queries/data_key_list.sql
	DataKeyList string
	//go:embed queries/data_key_put.sql
	DataKeyPut string
	//go:embed queries/data_key_hold.sql
	DataKeyHold string
	//go:embed queries/data_key_erase.sql
	DataKeyErase string
	//go:embed queries/data_key_show.sql
	DataKeyShow string
	//go:embed queries/data_key_old.sql
	DataKeyOld string
	//go:embed queries/data_key_wrap.sql
	DataKeyWrap string
	//go:embed queries/saga_data_key.sql
	SagaDataKey string
	//go:embed queries/saga_of_key.sql
	SagaOfKey string
	//go:embed queries/outbox_of_key.sql
	OutboxOfKey string
	//go:embed queries/inbox_of_key.sql
	InboxOfKey string
	//go:embed queries/data_key_uses.sql
	DataKeyUses string
)
