-- A saga that has not ended and that nothing will ever move: no lane, no command. (A paused one is planned anew when it goes on.)
SELECT s.id::text, '', 'is ' || s.state::text || ' and has neither lane nor command'
FROM pgsagaz.saga s
WHERE s.ended_at IS NULL AND s.paused_at IS NULL
  AND NOT EXISTS (SELECT FROM pgsagaz.lane l WHERE l.saga_id = s.id)
  AND NOT EXISTS (SELECT FROM pgsagaz.command c WHERE c.saga_id = s.id)
