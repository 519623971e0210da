-- What waits in the outbox and the inbox, in few words: each count stops at $1.
SELECT (SELECT count(*) FROM (SELECT FROM pgsagaz.outbox o
            JOIN pgsagaz.outbox_bucket b ON b.bucket = o.bucket JOIN pgsagaz.outbox_cursor c ON c.id = b.cursor_id
            WHERE NOT pgsagaz.outbox_consumed(o.txid, o.id, c.prev, c.cur, c.last_id)
              AND NOT EXISTS (SELECT FROM pgsagaz.outbox_stuck s WHERE s.id = o.id) LIMIT $1) p),
       (SELECT count(*) FROM (SELECT FROM pgsagaz.outbox_stuck s WHERE NOT s.done LIMIT $1) p),
       (SELECT count(*) FROM (SELECT FROM pgsagaz.outbox_dead LIMIT $1) p),
       (SELECT count(*) FROM (SELECT FROM pgsagaz.outbox_scheduled LIMIT $1) p),
       (SELECT count(*) FROM pgsagaz.outbox_relay r WHERE r.beat_at + r.lease >= pgsagaz.now()),
       (SELECT count(*) FROM (SELECT FROM pgsagaz.inbox_failure LIMIT $1) p),
       (SELECT count(*) FROM (SELECT FROM pgsagaz.inbox_dead LIMIT $1) p)
