-- The names that roles.sql gives rights to, for this transaction.
SELECT set_config('pgsagaz.role_app', $1, true), set_config('pgsagaz.role_worker', $2, true),
       set_config('pgsagaz.role_ops', $3, true), set_config('pgsagaz.role_readonly', $4, true)
