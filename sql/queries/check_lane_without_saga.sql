-- A claim, an outcome or a command of a saga that is not there.
SELECT saga_id::text, step, what || ' of a saga that is not there'
FROM (SELECT saga_id, step, 'lane' AS what FROM pgsagaz.lane
      UNION ALL SELECT saga_id, step, 'outcome' FROM pgsagaz.step
      UNION ALL SELECT saga_id, '', 'command' FROM pgsagaz.command) x
WHERE NOT EXISTS (SELECT FROM pgsagaz.saga s WHERE s.id = x.saga_id)
