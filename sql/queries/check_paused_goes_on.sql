-- A paused saga has begun something; or one that has ended is still paused.
SELECT s.id::text, r.step, 'begun after the saga was paused'
FROM pgsagaz.saga s JOIN pgsagaz.step r ON r.saga_id = s.id
WHERE s.paused_at IS NOT NULL AND r.token IS NOT NULL AND r.started_at > s.paused_at + interval '100 milliseconds'
UNION ALL
SELECT id::text, '', 'has ended, and is paused' FROM pgsagaz.saga WHERE paused_at IS NOT NULL AND ended_at IS NOT NULL
