-- The tables of a test's database that are not pgsagaz's, quoted.
SELECT format('%I.%I', n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND n.nspname NOT IN ('pgsagaz', 'information_schema') AND n.nspname NOT LIKE 'pg\_%'
ORDER BY 1
