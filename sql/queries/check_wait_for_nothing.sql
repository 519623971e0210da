-- A lane waits for children that have all told how they ended, or for a signal that is there, and nothing is on
-- its way to say so.
SELECT l.saga_id::text, l.step, 'waits for a ' || l.waits::text || ' that has come'
FROM pgsagaz.lane l
WHERE l.worker IS NULL AND l.run_at > pgsagaz.now()
  AND (l.waits = 'child'
       AND NOT EXISTS (SELECT FROM pgsagaz.child c WHERE c.parent_id = l.saga_id AND c.step = l.step AND CASE l.direction WHEN 'do' THEN c.state = 'running' ELSE c.state <> 'compensated' END)
    OR l.waits = 'signal'
       AND EXISTS (SELECT FROM pgsagaz.signal g JOIN pgsagaz.saga s ON s.id = g.saga_id
                                JOIN pgsagaz.definition d ON (d.name, d.version) = (s.name, s.version),
                               jsonb_array_elements(d.graph -> 'steps') n
                   WHERE g.saga_id = l.saga_id AND g.step IS NULL AND n ->> 'name' = l.step AND n ->> 'signal' = g.name))
