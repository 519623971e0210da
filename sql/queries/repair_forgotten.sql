-- What is to follow is planned anew, by whoever obeys the command.
SELECT f.id::text, f.name, '', 'a saga that is ' || f.state || ' is planned anew'
FROM (SELECT s.id, s.name, pgsagaz.command(s.id, 'plan', 'repair') AS state
      FROM pgsagaz.saga s
      WHERE s.ended_at IS NULL AND s.paused_at IS NULL AND $1::interval IS NOT NULL
        AND NOT EXISTS (SELECT FROM pgsagaz.lane l WHERE l.saga_id = s.id)
        AND NOT EXISTS (SELECT FROM pgsagaz.command c WHERE c.saga_id = s.id)
      LIMIT 1000 OFFSET 0) f
WHERE f.state NOT IN ('completed', 'compensated') -- meanwhile
