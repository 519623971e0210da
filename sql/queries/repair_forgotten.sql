-- What is to follow is planned anew, by whoever obeys the command.
SELECT s.id::text, s.name, '', 'a saga that is ' || pgsagaz.command(s.id, 'plan', 'repair') || ' is planned anew'
FROM pgsagaz.saga s
WHERE s.ended_at IS NULL AND s.paused_at IS NULL AND $1::interval IS NOT NULL
  AND NOT EXISTS (SELECT FROM pgsagaz.lane l WHERE l.saga_id = s.id)
  AND NOT EXISTS (SELECT FROM pgsagaz.command c WHERE c.saga_id = s.id)
LIMIT 1000
