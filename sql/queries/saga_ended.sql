-- Which of these sagas have ended, and which are there at all.
SELECT id::text, ended_at IS NOT NULL FROM pgsagaz.saga WHERE id = ANY ($1::uuid[])
UNION ALL
SELECT id::text, true FROM pgsagaz.archive WHERE id = ANY ($1::uuid[])
