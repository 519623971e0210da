-- The same schedule again changes nothing: every process of a deployment may put it. Another cron or zone counts
-- from now on. What changes stands in the audit, but for the input, which is a payload.
WITH before AS (SELECT * FROM pgsagaz.schedule WHERE name = $1),
put AS (
    INSERT INTO pgsagaz.schedule AS s (name, cron, zone, saga, input, slot_field, tags, timeout, catch_up, most, grace, next_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
    ON CONFLICT (name) DO UPDATE SET
        cron = excluded.cron, zone = excluded.zone, saga = excluded.saga, input = excluded.input, slot_field = excluded.slot_field,
        tags = excluded.tags, timeout = excluded.timeout, catch_up = excluded.catch_up, most = excluded.most, grace = excluded.grace,
        next_at = CASE WHEN (s.cron, s.zone) = (excluded.cron, excluded.zone) THEN s.next_at ELSE excluded.next_at END,
        retry_at = NULL, error = NULL
    RETURNING *)
SELECT pgsagaz.audit_act('schedule', put.name, CASE WHEN before.name IS NULL THEN 'add' ELSE 'change' END, $13, $14,
                         jsonb_build_object('cron', put.cron, 'zone', put.zone, 'saga', put.saga))
FROM put LEFT JOIN before USING (name)
WHERE before.name IS NULL
   OR (before.cron, before.zone, before.saga, before.input::text, before.slot_field, before.tags, before.timeout, before.catch_up, before.most, before.grace)
      IS DISTINCT FROM (put.cron, put.zone, put.saga, put.input::text, put.slot_field, put.tags, put.timeout, put.catch_up, put.most, put.grace)
