-- As ui_saga_list.sql, of sagas that are in the archive.
WITH looked AS NOT MATERIALIZED (
    SELECT s.id, s.name, s.version, s.state, s.key, s.tags, s.cause, s.created_at, s.deadline, s.ended_at
    FROM pgsagaz.archive s
    WHERE ($2::text IS NULL OR s.name = $2)
      AND ($4::text IS NULL OR s.key = $4)
      AND ($6::uuid IS NULL OR s.id < $6)
      AND ($9::timestamptz IS NULL OR s.id <= pgsagaz.uuid7_at($9))
      AND ($10::timestamptz IS NULL OR s.id >= pgsagaz.uuid7_at($10))
    ORDER BY s.id DESC LIMIT $8
), hit AS (
    SELECT * FROM looked s
    WHERE ($1::text[] IS NULL OR s.state::text = ANY ($1))
      AND ($3::text IS NULL OR s.tags @> ARRAY[$3])
      AND ($11::integer IS NULL OR s.version = $11)
      AND ($5::text IS NULL OR s.cause::text ILIKE $5)
    ORDER BY s.id DESC LIMIT $7
)
SELECT edge.id::text, h.id::text, h.name, h.version, h.state::text, coalesce(h.key, ''), h.tags, h.cause, h.created_at, h.deadline, h.ended_at, NULL::timestamptz,
       ''
FROM (SELECT CASE WHEN (SELECT count(*) FROM hit) < $7 THEN (SELECT id FROM looked OFFSET $8 - 1 LIMIT 1) END AS id) edge
LEFT JOIN hit h ON true
ORDER BY h.id DESC
