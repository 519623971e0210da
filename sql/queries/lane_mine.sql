-- Where my lane stands, after a COMMIT whose answer was lost. No row: it ended, or is somebody else's.
SELECT step, direction, generation, queue, attempt, crashes, in_doubt, coalesce(error, '')
FROM pgsagaz.lane WHERE id = $1 AND token = $2
