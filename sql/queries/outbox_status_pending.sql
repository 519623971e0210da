-- What is pending, by bucket and topic; of a backlog without end the first $1.
SELECT p.bucket, p.topic, count(*), extract(epoch FROM pgsagaz.now() - min(p.created_at))::float8
FROM (SELECT o.bucket, o.topic, o.created_at
      FROM pgsagaz.outbox o JOIN pgsagaz.outbox_bucket b ON b.bucket = o.bucket JOIN pgsagaz.outbox_cursor c ON c.id = b.cursor_id
      WHERE NOT pgsagaz.outbox_consumed(o.txid, o.id, c.prev, c.cur, c.last_id)
        AND NOT EXISTS (SELECT FROM pgsagaz.outbox_stuck s WHERE s.id = o.id) LIMIT $1) p
GROUP BY p.bucket, p.topic ORDER BY p.bucket, p.topic
