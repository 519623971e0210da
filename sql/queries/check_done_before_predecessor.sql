-- A step began before one it comes after had ended: a join that fired early.
SELECT r.saga_id::text, r.step, 'recorded before ' || a || ' had ended'
FROM pgsagaz.step r
JOIN pgsagaz.saga s ON s.id = r.saga_id
JOIN pgsagaz.definition d USING (name, version)
JOIN jsonb_array_elements(d.graph -> 'steps') n ON n ->> 'name' = r.step,
     jsonb_array_elements_text(n -> 'after') a
WHERE coalesce(s.ended_at, 'infinity') >= d.registered_at AND r.direction = 'do' AND r.generation = 1 AND r.token IS NOT NULL
  AND NOT EXISTS (SELECT FROM pgsagaz.step p
                  WHERE p.saga_id = r.saga_id AND p.step = a AND p.direction = 'do' AND p.ended_at <= r.ended_at)
