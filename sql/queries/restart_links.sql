-- Which saga it goes on from, and which one goes on from it.
SELECT coalesce((SELECT from_id::text FROM pgsagaz.restart WHERE saga_id = $1), ''),
       coalesce((SELECT saga_id::text FROM pgsagaz.restart WHERE from_id = $1), '')
