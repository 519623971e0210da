-- Each version there is, how many sagas still run on it, and how many live workers have its code. A completed child
-- of one that has not ended counts: it may yet be taken back.
WITH RECURSIVE alive AS (
    SELECT s.id FROM pgsagaz.saga s
    WHERE s.ended_at IS NULL AND s.id IN (SELECT saga_id FROM pgsagaz.lane UNION ALL SELECT saga_id FROM pgsagaz.command)
    UNION
    SELECT c.saga_id FROM alive a JOIN pgsagaz.child c ON c.parent_id = a.id WHERE c.state = 'completed'
)
SELECT d.name, d.version, d.registered_at,
       (SELECT count(*) FROM pgsagaz.saga s
        WHERE s.name = d.name AND s.version = d.version AND s.id IN (SELECT id FROM alive)),
       (SELECT count(*) FROM pgsagaz.saga s
        WHERE s.name = d.name AND s.version = d.version AND s.state = 'stuck'
          AND s.id IN (SELECT saga_id FROM pgsagaz.lane)),
       (SELECT count(*) FROM pgsagaz.worker w
        WHERE w.definitions @> ARRAY[d.name || '/' || d.version] AND w.beat_at > pgsagaz.now() - w.lease)
FROM pgsagaz.definition d
WHERE $1::text IS NULL OR d.name = $1
ORDER BY d.name, d.version
