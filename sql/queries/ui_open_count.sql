-- How many sagas have not ended, by state; of a crowd the $1 that were started last, and all that are stuck, up to as many.
WITH open AS (
    SELECT o.saga_id FROM (SELECT l.saga_id FROM pgsagaz.lane l GROUP BY l.saga_id ORDER BY l.saga_id DESC LIMIT $1) o
    UNION
    SELECT p.saga_id FROM (SELECT l.saga_id FROM pgsagaz.lane l WHERE l.run_at = 'infinity' AND l.waits IS NULL AND l.worker IS NULL
                           GROUP BY l.saga_id ORDER BY l.saga_id DESC LIMIT $1) p
)
SELECT s.state::text, count(*)
FROM open o CROSS JOIN LATERAL (SELECT s.state FROM pgsagaz.saga s WHERE s.id = o.saga_id AND s.ended_at IS NULL OFFSET 0) s
GROUP BY s.state
