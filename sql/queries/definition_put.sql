INSERT INTO pgsagaz.definition (name, version, graph, timeout) VALUES ($1, $2, $3, $4)
ON CONFLICT (name, version) DO UPDATE SET graph = excluded.graph, timeout = excluded.timeout, registered_at = pgsagaz.now()
WHERE (definition.graph, definition.timeout) IS DISTINCT FROM (excluded.graph, excluded.timeout)
