-- What became of what somebody asked for. It has one answer: the command is taken by the same transaction.
INSERT INTO pgsagaz.audit_answer (audit_id, answer, why) VALUES ($1, $2, $3)
