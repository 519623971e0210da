-- In the transaction that has started the sagas.
UPDATE pgsagaz.schedule SET next_at = $2, last_at = coalesce($3, last_at), last_saga = coalesce($4, last_saga), retry_at = NULL, error = NULL
WHERE name = $1
