-- With a cursor that has seen nothing: what is retained of the bucket is published again, some of it twice, none of it never.
WITH missing AS (
    SELECT g::smallint AS bucket FROM generate_series(0, 255) g
    WHERE NOT EXISTS (SELECT FROM pgsagaz.outbox_bucket b WHERE b.bucket = g) AND $1::interval IS NOT NULL
), made AS (
    INSERT INTO pgsagaz.outbox_cursor (prev) SELECT '3:3:' WHERE EXISTS (SELECT FROM missing) RETURNING id
)
INSERT INTO pgsagaz.outbox_bucket (bucket, cursor_id) SELECT m.bucket, c.id FROM missing m, made c
ON CONFLICT DO NOTHING -- of two who repair at once
RETURNING '', '', '', format('bucket %s has a cursor, at the beginning', bucket)
