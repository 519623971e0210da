-- Each version there is, how many sagas still run on it, and how many live workers have its code. One that only
-- sagas know was started by a process that has its code before any worker had registered it. A completed child of a
-- saga that has not ended counts: it may yet be taken back.
WITH RECURSIVE alive AS (
    SELECT s.id FROM pgsagaz.saga s
    WHERE s.ended_at IS NULL AND s.id IN (SELECT saga_id FROM pgsagaz.lane UNION SELECT saga_id FROM pgsagaz.command
                                         UNION SELECT id FROM pgsagaz.saga WHERE paused_at IS NOT NULL)
    UNION
    SELECT c.saga_id FROM alive a JOIN pgsagaz.child c ON c.parent_id = a.id WHERE c.state = 'completed'
), open AS (
    SELECT s.name, s.version, count(*) AS unfinished, count(*) FILTER (WHERE s.state = 'stuck') AS stuck
    FROM alive a JOIN pgsagaz.saga s USING (id)
    GROUP BY s.name, s.version
)
SELECT name, version, d.registered_at, coalesce(o.unfinished, 0), coalesce(o.stuck, 0),
       (SELECT count(*) FROM pgsagaz.worker w
        WHERE w.definitions @> ARRAY[name || '/' || version] AND w.beat_at > pgsagaz.now() - w.lease)
FROM pgsagaz.definition d FULL JOIN open o USING (name, version)
WHERE $1::text IS NULL OR name = $1
ORDER BY name, version
