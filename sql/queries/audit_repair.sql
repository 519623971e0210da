-- What a repair has done, and who asked for it. No saga: it is of something that all of them share.
WITH asked AS (
    INSERT INTO pgsagaz.audit (saga_id, saga, verb, step, actor, reason, details)
    VALUES (nullif($1::text, '')::uuid, $2, 'repair', nullif($3, ''), coalesce(nullif($4, ''), session_user), $5, jsonb_build_object('rule', $6::text, 'did', $7::text))
    RETURNING id)
INSERT INTO pgsagaz.audit_answer (audit_id, answer) SELECT id, 'obeyed' FROM asked
