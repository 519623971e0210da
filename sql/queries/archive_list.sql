-- As saga_list.sql, of sagas that are in the archive.
SELECT id::text, name, version, state::text, coalesce(key, ''), tags, cause, created_at, deadline, ended_at, NULL::timestamptz
FROM pgsagaz.archive
WHERE ($1::text[] IS NULL OR state::text = ANY ($1))
  AND ($2::text IS NULL OR name = $2)
  AND ($3::text IS NULL OR tags @> ARRAY[$3])
  AND ($4::text IS NULL OR key = $4)
  AND ($5::timestamptz IS NULL OR created_at <= $5)
  AND ($6::timestamptz IS NULL OR created_at >= $6)
  AND ($7::uuid IS NULL OR id < $7)
ORDER BY id DESC LIMIT $8
