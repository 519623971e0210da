SELECT new_id, bucket, ordered FROM pgsagaz.outbox_redrive($1, $2, $3)
