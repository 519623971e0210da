-- Until the transaction ends nothing is emptied: a snapshot that is older than a TRUNCATE finds the table empty, and not yet what left it.
LOCK TABLE pgsagaz.outbox, pgsagaz.outbox_direct IN ACCESS SHARE MODE
