-- A step was undone while one that comes after it, directly or not, still stood.
WITH RECURSIVE edge AS (
    SELECT d.name, d.version, n ->> 'name' AS step, a AS before
    FROM pgsagaz.definition d, jsonb_array_elements(d.graph -> 'steps') n, jsonb_array_elements_text(n -> 'after') a
), path AS (
    SELECT * FROM edge
    UNION
    SELECT e.name, e.version, e.step, p.before FROM edge e JOIN path p ON (p.name, p.version, p.step) = (e.name, e.version, e.before)
)
SELECT s.id::text, u.step, 'undone before ' || p.step
FROM pgsagaz.saga s
JOIN path p USING (name, version)
JOIN pgsagaz.step u ON u.saga_id = s.id AND u.step = p.before AND u.direction = 'undo' AND u.generation = 1 AND u.outcome <> 'skipped'
JOIN pgsagaz.step later ON later.saga_id = s.id AND later.step = p.step AND later.direction = 'undo' AND later.generation = 1
JOIN pgsagaz.definition d USING (name, version)
WHERE later.ended_at > u.ended_at AND coalesce(s.ended_at, 'infinity') >= d.registered_at
