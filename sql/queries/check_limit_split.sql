-- A lane that stands in several lines, or was called in them, has not the same place in all of them: it would hold one while it waits for
-- another, or would have been let in where there was no room for it.
SELECT p.saga_id::text, p.step, 'has ' || count(*) || ' places of ' || max(cardinality(p.lines)) || ', or not the same in all its lines: ' || string_agg(p.name, ', ' ORDER BY p.name)
FROM pgsagaz.limit_place p
WHERE p.lines IS NOT NULL
  AND CASE WHEN p.step = '' AND p.token IS NOT NULL THEN EXISTS (SELECT FROM pgsagaz.saga s WHERE s.id = p.saga_id AND s.ended_at IS NULL)
           ELSE EXISTS (SELECT FROM pgsagaz.lane l WHERE l.saga_id = p.saga_id AND l.id = p.lane AND (p.token IS NULL OR l.token = p.token)
                                                     AND l.step = p.step AND l.direction = p.direction) END
GROUP BY p.saga_id, p.step, p.direction
HAVING count(*) <> max(cardinality(p.lines)) OR NOT bool_and(p.name || ' ' || p.key = ANY (p.lines))
    OR count(DISTINCT (p.seq, p.at, p.token, p.lines)) > 1
