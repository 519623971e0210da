-- All, or the one of a name.
SELECT name, cron, zone, saga, input, coalesce(slot_field, ''), tags, coalesce(timeout, '0'), catch_up, most, grace,
       CASE WHEN next_at < 'infinity' THEN next_at END, paused_at, last_at, coalesce(last_saga::text, ''), coalesce(error, ''), created_at
FROM pgsagaz.schedule WHERE $1::text IS NULL OR name = $1 ORDER BY name
