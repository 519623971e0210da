-- A lane stands in a line that is not there: nobody would call it.
SELECT p.saga_id::text, p.step, 'stands in line ' || p.name || ' of ' || p.key || ', which is not there'
FROM pgsagaz.limit_place p
WHERE NOT EXISTS (SELECT FROM pgsagaz.limit_line l WHERE l.name = p.name AND l.key = p.key)
