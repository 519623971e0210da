-- A page of sagas, newest first, after $6. At most $8 rows are looked
-- at for it, so that a rare state or word costs no more than a common one: edge is the last of them if the page is not
-- full and there may be more. It is planned anew each time (the caller sees to it), so that what is null falls away. LIMIT in what is
-- asked of each row keeps Postgres from reading a whole table to ask it of all at once.
WITH looked AS NOT MATERIALIZED (
    SELECT s.id, s.name, s.version, s.state, s.key, s.tags, s.cause, s.created_at, s.deadline, s.ended_at, s.paused_at
    FROM pgsagaz.saga s
    WHERE ($2::text IS NULL OR s.name = $2)
      AND ($3::text IS NULL OR s.tags @> ARRAY[$3] AND s.tags <> '{}')
      AND ($4::text IS NULL OR s.key = $4)
      AND ($6::uuid IS NULL OR s.id < $6)
      AND ($9::timestamptz IS NULL OR s.id <= pgsagaz.uuid7_at($9))
      AND ($10::timestamptz IS NULL OR s.id >= pgsagaz.uuid7_at($10))
    ORDER BY s.id DESC LIMIT $8
), hit AS (
    SELECT * FROM looked s
    WHERE ($1::text[] IS NULL OR s.state::text = ANY ($1))
      AND ($11::integer IS NULL OR s.version = $11)
      AND ($5::text IS NULL OR s.cause::text ILIKE $5
           OR (SELECT true FROM pgsagaz.lane l WHERE l.saga_id = s.id AND l.error ILIKE $5 LIMIT 1)
           OR (SELECT true FROM pgsagaz.step r WHERE r.saga_id = s.id AND r.error ILIKE $5 LIMIT 1))
    ORDER BY s.id DESC LIMIT $7
)
SELECT edge.id::text, h.id::text, h.name, h.version, h.state::text, coalesce(h.key, ''), h.tags, h.cause, h.created_at, h.deadline, h.ended_at, h.paused_at,
       coalesce((SELECT l.step || ': ' || coalesce(l.error, '') FROM pgsagaz.lane l
                 WHERE h.state = 'stuck' AND l.saga_id = h.id AND l.run_at = 'infinity' AND l.waits IS NULL ORDER BY l.id LIMIT 1), '')
FROM (SELECT CASE WHEN (SELECT count(*) FROM hit) < $7 THEN (SELECT id FROM looked OFFSET $8 - 1 LIMIT 1) END AS id) edge
LEFT JOIN hit h ON true
ORDER BY h.id DESC
