-- A completed saga lacks a step, has a required step that failed, or has undone something.
SELECT s.id::text, n ->> 'name', 'completed without this step'
FROM pgsagaz.saga s JOIN pgsagaz.definition d USING (name, version), jsonb_array_elements(d.graph -> 'steps') n
WHERE s.state = 'completed' AND s.ended_at >= d.registered_at -- the graph may have been replaced since
  AND NOT EXISTS (SELECT FROM pgsagaz.step r
                  WHERE r.saga_id = s.id AND r.step = n ->> 'name' AND r.direction = 'do'
                    AND (r.outcome IN ('done', 'skipped') OR (n ->> 'optional')::boolean))
UNION ALL
SELECT s.id::text, r.step, 'completed, and yet undone'
FROM pgsagaz.saga s JOIN pgsagaz.step r ON r.saga_id = s.id AND r.direction = 'undo' WHERE s.state = 'completed'
