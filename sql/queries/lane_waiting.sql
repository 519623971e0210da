-- Lanes at a step, for who asks what may be done there: what it is, and whether it is held, is left to an operator, waits for
-- something to come, and may have had an effect.
SELECT s.name, s.version, s.state::text, l.id, l.direction::text, l.generation, l.worker IS NOT NULL,
       l.run_at = 'infinity' AND l.waits IS NULL, l.in_doubt, coalesce(l.waits::text, '')
FROM pgsagaz.saga s LEFT JOIN pgsagaz.lane l ON l.saga_id = s.id AND l.step = $2
WHERE s.id = $1
