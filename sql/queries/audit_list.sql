-- Newest last. $1: of this saga; $2, $3: since and until; $4: of this actor.
SELECT u.id, u.at, coalesce(u.saga_id::text, ''), u.saga, u.verb, coalesce(u.step, ''), u.actor, u.login, u.reason, u.details,
       coalesce(a.answer, 'waits'), coalesce(a.why, ''), a.at
FROM pgsagaz.audit u LEFT JOIN pgsagaz.audit_answer a ON a.audit_id = u.id
WHERE ($1::uuid IS NULL OR u.saga_id = $1)
  AND ($2::timestamptz IS NULL OR u.at >= $2)
  AND ($3::timestamptz IS NULL OR u.at < $3)
  AND ($4::text IS NULL OR u.actor = $4)
ORDER BY u.id
