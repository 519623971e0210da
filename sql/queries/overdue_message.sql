-- Messages before their cursor that nobody takes to the broker: by bucket, with the oldest. While the broker is away there are some, too.
SELECT '', '', format('%s messages of bucket %s are not published, the oldest (%s) since %s%s', count(*), o.bucket, min(o.id), date_trunc('second', min(o.created_at)),
                      CASE WHEN c.epoch IS NULL THEN ': no relay has it' ELSE '' END)
FROM pgsagaz.outbox o JOIN pgsagaz.outbox_bucket b ON b.bucket = o.bucket JOIN pgsagaz.outbox_cursor c ON c.id = b.cursor_id
WHERE o.created_at <= pgsagaz.now() - $1::interval AND NOT o.replayed
  AND NOT pgsagaz.outbox_consumed(o.txid, o.id, c.prev, c.cur, c.last_id)
  AND NOT EXISTS (SELECT FROM pgsagaz.outbox_stuck s WHERE s.id = o.id) -- its key waits, and is shown as such
GROUP BY o.bucket, c.epoch
