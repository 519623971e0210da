SELECT pgsagaz.inbox_drop_partition($1)
