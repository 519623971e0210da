SELECT (SELECT r.result FROM pgsagaz.step r
        WHERE r.saga_id = c.saga_id AND r.direction = 'do' AND r.outcome = 'done' AND r.step = d.graph ->> 'output'
        ORDER BY r.generation DESC LIMIT 1)
FROM pgsagaz.child c JOIN pgsagaz.saga s ON s.id = c.saga_id JOIN pgsagaz.definition d ON (d.name, d.version) = (s.name, s.version)
WHERE c.parent_id = $1 AND c.step = $2 ORDER BY c.item
