-- Under the saga's lock, in the order in which they were asked, and no more than fit into one transaction: each
-- has a job of its own.
WITH taken AS (DELETE FROM pgsagaz.command WHERE id IN (SELECT id FROM pgsagaz.command WHERE saga_id = $1 ORDER BY id LIMIT 500)
               RETURNING id, kind, reason, audit_id, body)
SELECT kind, reason, audit_id, coalesce(body, 'null') FROM taken ORDER BY id
