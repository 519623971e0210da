-- Each gets an attempt id of its own, under which it takes effect once. One that is under way stays as it is.
UPDATE pgsagaz.inbox_dead SET redrive = pgsagaz.uuid7(), redrives = redrives + 1
WHERE id = ANY ($1::bigint[]) AND redrive IS NULL
RETURNING id
