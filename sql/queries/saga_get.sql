SELECT s.id::text, s.name, s.version, s.state::text, coalesce(s.key, ''), s.tags, s.input, s.cause, s.created_at, s.deadline, s.ended_at, s.paused_at,
       (SELECT r.result FROM pgsagaz.step r
        WHERE s.state = 'completed' AND r.saga_id = s.id AND r.direction = 'do' AND r.outcome = 'done'
          AND r.step = d.graph ->> 'output'
        ORDER BY r.generation DESC LIMIT 1),
       coalesce(s.parent_id::text, ''), coalesce(s.parent_step, '')
FROM pgsagaz.saga s LEFT JOIN pgsagaz.definition d USING (name, version)
WHERE s.id = $1
