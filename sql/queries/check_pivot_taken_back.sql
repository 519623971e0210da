-- Past its pivot a saga goes forward only.
SELECT s.id::text, p.step, 'the pivot is done, and ' || CASE WHEN u.step IS NULL THEN 'the saga is ' || s.state::text ELSE u.step || ' is undone' END
FROM pgsagaz.saga s
JOIN pgsagaz.definition d USING (name, version)
JOIN jsonb_array_elements(d.graph -> 'steps') n ON (n ->> 'pivot')::boolean
JOIN pgsagaz.step p ON p.saga_id = s.id AND p.step = n ->> 'name' AND p.direction = 'do' AND p.outcome = 'done' AND p.generation = 1
LEFT JOIN pgsagaz.step u ON u.saga_id = s.id AND u.direction = 'undo'
WHERE coalesce(s.ended_at, 'infinity') >= d.registered_at AND (u.step IS NOT NULL OR s.state IN ('compensating', 'compensated'))
