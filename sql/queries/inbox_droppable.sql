-- Partitions below the floor, and how far an earlier cleanup came with each.
SELECT p.name, coalesce(h.inhdetachpending::text, 'detached')
FROM pgsagaz.inbox_partition p
    JOIN pgsagaz.inbox_state s ON p.upper <= s.floor
    LEFT JOIN pg_class c ON c.relname = p.name AND c.relnamespace = 'pgsagaz'::regnamespace
    LEFT JOIN pg_inherits h ON h.inhrelid = c.oid AND h.inhparent = 'pgsagaz.consumer_inbox'::regclass
ORDER BY p.lower
