-- A stuck saga without a parked lane: nobody could set it going again.
SELECT s.id::text, '', 'stuck, with nothing parked'
FROM pgsagaz.saga s
WHERE s.state = 'stuck'
  AND NOT EXISTS (SELECT FROM pgsagaz.lane l WHERE l.saga_id = s.id AND l.run_at = 'infinity' AND l.waits IS NULL)
