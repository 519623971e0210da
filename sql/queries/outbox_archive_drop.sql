SELECT pgsagaz.outbox_archive_drop(pgsagaz.now() - $1::interval)
