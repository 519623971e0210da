-- A saga has ended and something of it is still claimed.
SELECT s.id::text, l.step, 'lane ' || l.id || ' of a saga that is ' || s.state::text
FROM pgsagaz.saga s JOIN pgsagaz.lane l ON l.saga_id = s.id WHERE s.ended_at IS NOT NULL
