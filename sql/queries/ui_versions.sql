-- As definition_list.sql, and bounded: of a crowd of sagas that have not ended, the $2 that were started first, as many that were
-- started last, and as many that are stuck, have commands or are paused are counted, and no children that have completed. The last
-- column says that there may be more. Each part is found by an index, and LATERAL with OFFSET 0 keeps Postgres from reading all sagas to find those.
WITH parts AS (
    (SELECT 1 AS part, l.saga_id AS id FROM pgsagaz.lane l GROUP BY l.saga_id ORDER BY l.saga_id LIMIT $2)
    UNION ALL
    (SELECT 2, l.saga_id FROM pgsagaz.lane l GROUP BY l.saga_id ORDER BY l.saga_id DESC LIMIT $2)
    UNION ALL
    (SELECT 3, l.saga_id FROM pgsagaz.lane l WHERE l.run_at = 'infinity' AND l.waits IS NULL AND l.worker IS NULL
     GROUP BY l.saga_id ORDER BY l.saga_id DESC LIMIT $2)
    UNION ALL
    (SELECT 4, c.saga_id FROM pgsagaz.command c GROUP BY c.saga_id ORDER BY c.saga_id DESC LIMIT $2)
    UNION ALL
    (SELECT 5, p.id FROM pgsagaz.saga p WHERE p.paused_at IS NOT NULL ORDER BY p.id DESC LIMIT $2)
), open AS (
    SELECT s.name, s.version, count(*) AS unfinished, count(*) FILTER (WHERE s.state = 'stuck') AS stuck
    FROM (SELECT DISTINCT id FROM parts) o
    CROSS JOIN LATERAL (SELECT s.name, s.version, s.state FROM pgsagaz.saga s WHERE s.id = o.id AND s.ended_at IS NULL OFFSET 0) s
    GROUP BY s.name, s.version
)
SELECT name, version, d.registered_at, coalesce(o.unfinished, 0), coalesce(o.stuck, 0),
       (SELECT count(*) FROM pgsagaz.worker w
        WHERE w.definitions @> ARRAY[name || '/' || version] AND w.beat_at > pgsagaz.now() - w.lease),
       (SELECT count(*) >= $2 FROM parts WHERE part = 1)
FROM pgsagaz.definition d FULL JOIN open o USING (name, version)
WHERE $1::text IS NULL OR name = $1
ORDER BY name, version
