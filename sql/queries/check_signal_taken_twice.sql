-- A step has taken two signals, or one that it does not await.
SELECT g.saga_id::text, g.step, count(*) || ' signals taken: ' || string_agg(g.name, ', ')
FROM pgsagaz.signal g JOIN pgsagaz.saga s ON s.id = g.saga_id
LEFT JOIN pgsagaz.definition d ON (d.name, d.version) = (s.name, s.version)
WHERE g.step IS NOT NULL AND coalesce(s.ended_at, 'infinity') >= coalesce(d.registered_at, 'infinity')
GROUP BY g.saga_id, g.step, d.graph
HAVING count(*) > 1
    OR NOT EXISTS (SELECT FROM jsonb_array_elements(d.graph -> 'steps') n WHERE n ->> 'name' = g.step AND n ->> 'signal' = min(g.name))
