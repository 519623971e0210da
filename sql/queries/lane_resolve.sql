-- Under the saga's lock: takes away the lane of a step that an operator has decided. No row: nobody is waiting
-- for one there.
DELETE FROM pgsagaz.lane WHERE saga_id = $1 AND step = $2 AND worker IS NULL AND run_at = 'infinity' AND waits IS NULL
RETURNING id
