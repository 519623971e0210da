-- An outcome that contradicts itself: failed without an error, in doubt and yet done, an undo that failed
-- (it would still be tried), a do that found nothing. (Not a CHECK: see saga_state.)
SELECT saga_id::text, step, direction::text || ' is ' || outcome::text || CASE WHEN in_doubt THEN ' and in doubt' ELSE '' END
       || CASE WHEN error IS NULL THEN '' ELSE ', with an error' END
FROM pgsagaz.step
WHERE (outcome = 'failed') <> (error IS NOT NULL)
   OR outcome = 'failed' AND direction = 'undo'
   OR outcome = 'nothing' AND direction = 'do'
   OR in_doubt AND (outcome <> 'failed' OR result IS NOT NULL)
