SELECT pgsagaz.outbox_rebase()
