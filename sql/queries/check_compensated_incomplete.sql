-- A compensated saga has a step whose effect stands.
SELECT s.id::text, r.step, 'compensated, and generation ' || r.generation || ' of this step was not undone'
FROM pgsagaz.saga s
JOIN pgsagaz.definition d USING (name, version)
JOIN pgsagaz.step r ON r.saga_id = s.id AND r.direction = 'do' AND (r.outcome = 'done' OR r.in_doubt)
JOIN jsonb_array_elements(d.graph -> 'steps') n ON n ->> 'name' = r.step AND (n ->> 'undo')::boolean
WHERE s.state = 'compensated' AND s.ended_at >= d.registered_at
  AND r.generation = (SELECT max(m.generation) FROM pgsagaz.step m WHERE m.saga_id = r.saga_id AND m.step = r.step AND m.direction = 'do')
  AND NOT EXISTS (SELECT FROM pgsagaz.step u
                  WHERE u.saga_id = r.saga_id AND u.step = r.step AND u.direction = 'undo' AND u.generation = r.generation)
