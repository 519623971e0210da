-- Something was undone that had never been done, nor was in doubt.
SELECT u.saga_id::text, u.step, 'undone (generation ' || u.generation || ') without having been done'
FROM pgsagaz.step u
WHERE u.direction = 'undo'
  AND NOT EXISTS (SELECT FROM pgsagaz.step d
                  WHERE d.saga_id = u.saga_id AND d.step = u.step AND d.direction = 'do' AND d.generation = u.generation
                    AND (d.outcome = 'done' OR d.in_doubt))
