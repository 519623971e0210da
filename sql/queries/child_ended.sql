-- Under the parent's lock. A child that was reopened tells again. What a try that was given up tells, nobody hears.
UPDATE pgsagaz.child SET state = $5 WHERE parent_id = $1 AND step = $2 AND item = $3 AND saga_id = $4
