-- Newest first, a page after $7. Ids are UUIDv7, so their order is that of the starts. $9: only what has not
-- ended is asked for, and what has not ended has a lane or a command, or is paused.
SELECT s.id::text, s.name, s.version, s.state::text, coalesce(s.key, ''), s.tags, s.cause, s.created_at, s.deadline, s.ended_at, s.paused_at
FROM pgsagaz.saga s
WHERE ($1::text[] IS NULL OR s.state::text = ANY ($1))
  AND ($2::text IS NULL OR s.name = $2)
  AND ($3::text IS NULL OR s.tags @> ARRAY[$3])
  AND ($4::text IS NULL OR s.key = $4)
  AND ($5::timestamptz IS NULL OR s.created_at <= $5)
  AND ($6::timestamptz IS NULL OR s.created_at >= $6)
  AND ($7::uuid IS NULL OR s.id < $7)
  AND (NOT $9 OR s.id IN (SELECT saga_id FROM pgsagaz.lane UNION ALL SELECT saga_id FROM pgsagaz.command
                     UNION ALL SELECT id FROM pgsagaz.saga WHERE paused_at IS NOT NULL))
  AND (NOT $10 OR s.paused_at IS NOT NULL)
ORDER BY s.id DESC LIMIT $8
