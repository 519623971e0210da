-- An event that was written after its cursor had moved for the last time, and that the cursor has seen all the same: nobody will
-- ever read it. (A minute's grace for a clock that was set back.)
SELECT coalesce(o.saga_id::text, ''), coalesce(o.step, ''), format('message %s of the outbox was written at %s, and lies behind cursor %s, which stands there since %s', o.id, o.created_at, c.id, c.moved_at)
FROM pgsagaz.outbox o JOIN pgsagaz.outbox_bucket b ON b.bucket = o.bucket JOIN pgsagaz.outbox_cursor c ON c.id = b.cursor_id
WHERE o.created_at > c.moved_at + interval '1 minute' AND pgsagaz.outbox_consumed(o.txid, o.id, c.prev, c.cur, c.last_id)
