-- An outcome that contradicts itself: failed without an error, in doubt and yet done, an undo that failed where
-- it would still be tried, a do that found nothing. (Not a CHECK: see saga_state.)
SELECT r.saga_id::text, r.step, r.direction::text || ' is ' || r.outcome::text || CASE WHEN r.in_doubt THEN ' and in doubt' ELSE '' END
       || CASE WHEN r.error IS NULL THEN '' ELSE ', with an error' END
FROM pgsagaz.step r
WHERE (r.outcome = 'failed') <> (r.error IS NOT NULL)
   OR r.outcome = 'failed' AND r.direction = 'undo'
      AND NOT EXISTS (SELECT FROM pgsagaz.saga s JOIN pgsagaz.definition d USING (name, version), jsonb_array_elements(d.graph -> 'steps') n
                      WHERE s.id = r.saga_id AND n ->> 'name' = r.step AND n ? 'undo_failure')
   OR r.outcome = 'nothing' AND r.direction = 'do'
   OR r.in_doubt AND (r.outcome <> 'failed' OR r.result IS NOT NULL)
