-- Everything there is to show of a saga's steps: those that ended, and those that are claimed.
SELECT step, direction::text, generation, outcome::text, in_doubt, attempt, coalesce(worker, ''), result, coalesce(error, ''), coalesce(note, ''), coalesce(origin::text, ''),
       started_at, ended_at, NULL::timestamptz
FROM pgsagaz.step WHERE saga_id = $1
UNION ALL
SELECT step, direction::text, generation,
       CASE WHEN worker IS NOT NULL THEN 'running'
            WHEN waits = 'signal' THEN 'awaiting' WHEN waits = 'sleep' THEN 'sleeping' WHEN waits = 'child' THEN 'child'
            WHEN run_at = 'infinity' THEN 'stuck' ELSE 'waiting' END,
       in_doubt, attempt, coalesce(worker, ''), NULL, coalesce(error, ''), '', '',
       NULL, NULL, CASE WHEN worker IS NULL AND run_at <> 'infinity' THEN run_at END
FROM pgsagaz.lane WHERE saga_id = $1 AND step <> ''
ORDER BY 13 NULLS LAST, 12 NULLS LAST, 1
