-- What a repair has done, and who asked for it. No saga: it is of the system, which all of them share.
WITH asked AS (
    INSERT INTO pgsagaz.audit (about, saga_id, saga, verb, step, actor, reason, details)
    VALUES (CASE $1::text WHEN '' THEN 'system' ELSE 'saga' END, nullif($1, '')::uuid, CASE WHEN $1 <> '' THEN $2::text END, 'repair',
            CASE WHEN $1 <> '' THEN nullif($3::text, '') END, coalesce(nullif($4, ''), session_user), $5, jsonb_build_object('rule', $6::text, 'did', $7::text))
    RETURNING id)
INSERT INTO pgsagaz.audit_answer (audit_id, answer) SELECT id, 'obeyed' FROM asked
