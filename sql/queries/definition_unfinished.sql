-- Sagas that run on a version, and completed children that may yet be taken back: one that it descends from has not
-- ended.
WITH RECURSIVE up AS (
    SELECT s.id, s.parent_id FROM pgsagaz.saga s
    WHERE s.name = $1 AND s.version = $2 AND s.state = 'completed' AND s.parent_id IS NOT NULL
    UNION ALL
    SELECT u.id, p.parent_id FROM up u JOIN pgsagaz.saga p ON p.id = u.parent_id WHERE p.state = 'completed' AND p.parent_id IS NOT NULL
)
SELECT (SELECT count(*) FROM pgsagaz.saga WHERE name = $1 AND version = $2 AND ended_at IS NULL)
     + (SELECT count(*) FROM up u JOIN pgsagaz.saga p ON p.id = u.parent_id WHERE p.ended_at IS NULL)
