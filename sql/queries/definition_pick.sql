-- The definition of a name, at version $2; null: the one that pgsagaz.start takes.
SELECT d.version, d.graph, coalesce(extract(epoch FROM d.timeout), 0)::float8
FROM pgsagaz.definition d
WHERE d.name = $1 AND ($2::integer IS NULL OR d.version = $2)
ORDER BY EXISTS (SELECT FROM pgsagaz.worker w
                 WHERE w.definitions @> ARRAY[d.name || '/' || d.version] AND w.beat_at > pgsagaz.now() - w.lease) DESC,
         d.version DESC
LIMIT 1
