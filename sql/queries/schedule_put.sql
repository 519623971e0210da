-- The same schedule again changes nothing: every process of a deployment may put it. Another cron or zone counts
-- from now on.
INSERT INTO pgsagaz.schedule AS s (name, cron, zone, saga, input, slot_field, tags, timeout, catch_up, most, grace, next_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
ON CONFLICT (name) DO UPDATE SET
    cron = excluded.cron, zone = excluded.zone, saga = excluded.saga, input = excluded.input, slot_field = excluded.slot_field,
    tags = excluded.tags, timeout = excluded.timeout, catch_up = excluded.catch_up, most = excluded.most, grace = excluded.grace,
    next_at = CASE WHEN (s.cron, s.zone) = (excluded.cron, excluded.zone) THEN s.next_at ELSE excluded.next_at END,
    retry_at = NULL, error = NULL
