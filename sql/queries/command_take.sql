-- Under the saga's lock, in the order in which they were asked.
WITH taken AS (DELETE FROM pgsagaz.command WHERE saga_id = $1 RETURNING id, kind, reason, body)
SELECT kind, reason, coalesce(body, 'null') FROM taken ORDER BY id
