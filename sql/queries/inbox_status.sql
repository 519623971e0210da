SELECT pgsagaz.inbox_time(s.floor), pgsagaz.inbox_time(s.ceiling), nullif(s.foreign_floor, '-infinity'),
       (SELECT count(*) FROM pgsagaz.inbox_partition), (SELECT count(*) FROM pgsagaz.inbox_partition WHERE late),
       (SELECT greatest(sum(c.reltuples), 0)::bigint FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid
        WHERE h.inhparent = 'pgsagaz.consumer_inbox'::regclass),
       (SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'pgsagaz.consumer_inbox_foreign'::regclass),
       (SELECT sum(pg_total_relation_size(h.inhrelid))::bigint FROM pg_inherits h WHERE h.inhparent = 'pgsagaz.consumer_inbox'::regclass)
FROM pgsagaz.inbox_state s
