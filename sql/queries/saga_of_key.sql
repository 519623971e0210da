-- The sagas of a subject, in the order in which they were started.
SELECT id::text FROM pgsagaz.saga WHERE data_key = $1
UNION ALL
SELECT id::text FROM pgsagaz.archive WHERE data_key = $1
ORDER BY 1
