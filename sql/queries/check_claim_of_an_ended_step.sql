-- A step that has its outcome is claimed again.
SELECT l.saga_id::text, l.step, 'lane ' || l.id || ' claims a ' || l.direction::text || ' that has its outcome'
FROM pgsagaz.lane l JOIN pgsagaz.step r USING (saga_id, step, direction, generation)
