-- Somebody asked something of a saga, and it is neither answered nor on its way: a command was lost.
SELECT u.saga_id::text, coalesce(u.step, ''), u.verb || ' by ' || u.actor || ' has no answer, and no command'
FROM pgsagaz.audit u
WHERE u.about = 'saga'
  AND NOT EXISTS (SELECT FROM pgsagaz.audit_answer a WHERE a.audit_id = u.id)
  AND NOT EXISTS (SELECT FROM pgsagaz.command c WHERE c.audit_id = u.id)
UNION ALL
SELECT c.saga_id::text, '', c.kind || ' is answered, and yet to come'
FROM pgsagaz.command c JOIN pgsagaz.audit_answer a USING (audit_id)
