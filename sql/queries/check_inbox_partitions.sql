-- A gap in the inbox's partitions between floor and ceiling, in which claims would fail; or a partition that
-- nobody will ever drop.
SELECT '', '', 'inbox partition ' || p.name || ' is not attached'
FROM pgsagaz.inbox_partition p, pgsagaz.inbox_state s
WHERE p.upper > s.floor AND NOT EXISTS (
    SELECT FROM pg_inherits h WHERE h.inhparent = 'pgsagaz.consumer_inbox'::regclass AND h.inhrelid = to_regclass('pgsagaz.' || p.name))
UNION ALL
SELECT '', '', 'inbox partition ' || c.relname || ' is not listed'
FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid
WHERE h.inhparent = 'pgsagaz.consumer_inbox'::regclass AND c.relname <> 'consumer_inbox_foreign'
  AND NOT EXISTS (SELECT FROM pgsagaz.inbox_partition p WHERE p.name = c.relname)
UNION ALL
SELECT '', '', 'no inbox partition begins at ' || edge
FROM (SELECT floor AS edge FROM pgsagaz.inbox_state
      UNION SELECT p.upper FROM pgsagaz.inbox_partition p JOIN pgsagaz.inbox_state s ON p.upper > s.floor) e
WHERE edge <> (SELECT ceiling FROM pgsagaz.inbox_state) AND NOT EXISTS (SELECT FROM pgsagaz.inbox_partition p WHERE p.lower = edge)
