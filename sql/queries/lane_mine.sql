-- Where my lane stands, after a COMMIT whose answer was lost. No row: it ended, or is somebody else's.
SELECT step, direction::text, generation, queue, attempt, crashes, in_doubt, coalesce(error, ''),
       coalesce(waits::text, ''), coalesce(until <= pgsagaz.now(), false)
FROM pgsagaz.lane WHERE saga_id = $1 AND id = $2 AND token = $3
