-- Of an act that takes many transactions, before the first: it is answered after the last.
SELECT pgsagaz.audit_act($1, NULL, $2, $3, $4, $5, NULL)
