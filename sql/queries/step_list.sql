-- In a statement of its own, as lane_list.sql says. A generation's do comes before its undo.
SELECT step, direction::text, generation, outcome::text, in_doubt, coalesce(token, 0), result, coalesce(error, ''), coalesce(origin::text, '')
FROM pgsagaz.step WHERE saga_id = $1 ORDER BY step.generation, step.direction
