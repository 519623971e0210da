WITH gone AS (DELETE FROM pgsagaz.schedule WHERE name = $1 RETURNING name)
SELECT pgsagaz.audit_act('schedule', name, 'rm', $2, $3, NULL) FROM gone
