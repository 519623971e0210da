-- Lines in which somebody stands: where a place has become free, since a worker died, or before it could say so, the next
-- is called. Any of them, so that none keeps another from being looked at. A line that is missing is looked at the next time.
WITH line AS MATERIALIZED (
    SELECT l.name, l.key FROM pgsagaz.limit_line l
    WHERE EXISTS (SELECT FROM pgsagaz.limit_place p WHERE p.name = l.name AND p.key = l.key AND p.at IS NULL)
    ORDER BY random() LIMIT 200
    FOR UPDATE SKIP LOCKED
)
SELECT DISTINCT c.queue FROM line, LATERAL pgsagaz.limit_call(ARRAY[line.name || ' ' || line.key], 0) c WHERE c.seconds <= 0
