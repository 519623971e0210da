-- As ui_saga_list.sql, of sagas that have not ended: they are found by their lanes and commands, or are
-- paused, however many have.
-- $12: only stuck ones are asked for, and each of those has a lane that is parked.
WITH open AS (
    (SELECT l.saga_id AS id FROM pgsagaz.lane l
     WHERE ($6::uuid IS NULL OR l.saga_id < $6)
       AND (NOT $12::boolean OR l.run_at = 'infinity' AND l.waits IS NULL AND l.worker IS NULL)
     GROUP BY l.saga_id ORDER BY l.saga_id DESC LIMIT $8)
    UNION
    (SELECT c.saga_id FROM pgsagaz.command c
     WHERE NOT $12::boolean AND ($6::uuid IS NULL OR c.saga_id < $6)
     GROUP BY c.saga_id ORDER BY c.saga_id DESC LIMIT $8)
    UNION
    (SELECT p.id FROM pgsagaz.saga p
     WHERE NOT $12::boolean AND p.paused_at IS NOT NULL AND ($6::uuid IS NULL OR p.id < $6)
     ORDER BY p.id DESC LIMIT $8)
), looked AS NOT MATERIALIZED (
    SELECT o.id FROM open o ORDER BY o.id DESC LIMIT $8
), hit AS (
    SELECT s.id, s.name, s.version, s.state, s.key, s.tags, s.cause, s.created_at, s.deadline, s.ended_at, s.paused_at
    FROM looked o CROSS JOIN LATERAL (SELECT * FROM pgsagaz.saga s WHERE s.id = o.id OFFSET 0) s
    WHERE s.state::text = ANY ($1::text[])
      AND ($2::text IS NULL OR s.name = $2)
      AND ($3::text IS NULL OR s.tags @> ARRAY[$3] AND s.tags <> '{}')
      AND ($4::text IS NULL OR s.key = $4)
      AND ($9::timestamptz IS NULL OR s.created_at <= $9)
      AND ($10::timestamptz IS NULL OR s.created_at >= $10)
      AND ($11::integer IS NULL OR s.version = $11)
      AND ($5::text IS NULL OR s.cause::text ILIKE $5
           OR (SELECT true FROM pgsagaz.lane l WHERE l.saga_id = s.id AND l.error ILIKE $5 LIMIT 1)
           OR (SELECT true FROM pgsagaz.step r WHERE r.saga_id = s.id AND r.error ILIKE $5 LIMIT 1))
    ORDER BY o.id DESC LIMIT $7
)
SELECT edge.id::text, h.id::text, h.name, h.version, h.state::text, coalesce(h.key, ''), h.tags, h.cause, h.created_at, h.deadline, h.ended_at, h.paused_at,
       coalesce((SELECT l.step || ': ' || coalesce(l.error, '') FROM pgsagaz.lane l
                 WHERE h.state = 'stuck' AND l.saga_id = h.id AND l.run_at = 'infinity' AND l.waits IS NULL AND l.worker IS NULL ORDER BY l.id LIMIT 1), '')
FROM (SELECT CASE WHEN (SELECT count(*) FROM hit) < $7 THEN (SELECT id FROM looked ORDER BY id DESC OFFSET $8 - 1 LIMIT 1) END AS id) edge
LEFT JOIN hit h ON true
ORDER BY h.id DESC
