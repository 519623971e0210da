-- One worker wins: the others find the lane held, gone, not due, or its saga paused. A lane that has a job was due when it got it,
-- whatever the clock says by now; one that is to wait has none.
UPDATE pgsagaz.lane SET worker = $3, token = $4
WHERE saga_id = $2 AND id = $1 AND worker IS NULL AND (job_id IS NOT NULL OR run_at <= pgsagaz.now())
  AND NOT EXISTS (SELECT FROM pgsagaz.saga WHERE id = $2 AND paused_at IS NOT NULL)
RETURNING step, direction::text, generation, queue, attempt, crashes, in_doubt, coalesce(error, ''),
          coalesce(waits::text, ''), coalesce(until <= pgsagaz.now(), false)
