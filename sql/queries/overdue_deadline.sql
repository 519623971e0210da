-- A deadline that passed, and nobody has told its saga.
SELECT d.saga_id::text, '', 'its deadline was ' || date_trunc('second', d.due_at)
FROM pgsagaz.deadline d JOIN pgsagaz.saga s ON s.id = d.saga_id
WHERE s.state = 'running' AND d.due_at <= pgsagaz.now() - $1::interval
