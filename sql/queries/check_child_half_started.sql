-- A child's row and its saga disagree, with no command on its way that would tell.
SELECT c.parent_id::text, c.step, 'child ' || c.item || ' is ' || coalesce(c.state::text, 'not started') || ' here and '
       || coalesce((SELECT s.state::text FROM pgsagaz.saga s WHERE s.id = c.saga_id), 'not there')
FROM pgsagaz.child c
WHERE c.saga_id IS NULL AND c.state IS NOT NULL
   OR c.saga_id IS NOT NULL AND NOT EXISTS (SELECT FROM pgsagaz.saga s WHERE s.id = c.saga_id)
   OR c.state = 'running'
      AND EXISTS (SELECT FROM pgsagaz.saga s WHERE s.id = c.saga_id AND s.ended_at IS NOT NULL)
      AND NOT EXISTS (SELECT FROM pgsagaz.command m WHERE m.saga_id = c.parent_id AND m.kind = 'child')
