-- Two lanes claim the same step: it would be done twice.
SELECT saga_id::text, step, 'lanes ' || string_agg(id::text, ', ') || ' claim the same ' || direction::text
FROM pgsagaz.lane GROUP BY saga_id, step, direction, generation HAVING count(*) > 1
