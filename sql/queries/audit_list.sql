-- Newest last; of more than $9 (0: any number) the newest. $1: of this saga; $2, $3: since and until; $4: of this actor;
-- $5: about what; $6: which of them; $7: this verb; $8: with lower ids (0: any).
SELECT p.id, p.at, p.about, coalesce(p.saga_id::text, ''), coalesce(p.saga, ''), coalesce(p.thing, ''), p.verb, coalesce(p.step, ''), p.actor, p.login,
       p.reason, p.details, coalesce(a.answer, 'waits'), coalesce(a.why, ''), a.at
FROM (SELECT * FROM pgsagaz.audit u
      WHERE ($1::uuid IS NULL OR u.saga_id = $1)
        AND ($2::timestamptz IS NULL OR u.at >= $2)
        AND ($3::timestamptz IS NULL OR u.at < $3)
        AND ($4::text IS NULL OR u.actor = $4)
        AND ($5::text IS NULL OR u.about = $5)
        AND ($6::text IS NULL OR u.thing = $6)
        AND ($7::text IS NULL OR u.verb = $7)
        AND ($8::bigint = 0 OR u.id < $8)
      ORDER BY u.id DESC LIMIT nullif($9::bigint, 0)) p
    LEFT JOIN pgsagaz.audit_answer a ON a.audit_id = p.id
ORDER BY p.id
