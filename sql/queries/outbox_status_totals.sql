SELECT (SELECT count(*) FROM pgsagaz.outbox_dead), (SELECT count(*) FROM pgsagaz.outbox_scheduled),
       (SELECT coalesce(extract(epoch FROM min(due_at) - pgsagaz.now()), 0)::float8 FROM pgsagaz.outbox_scheduled),
       (SELECT coalesce(max(max_pending), 0) FROM pgsagaz.outbox_pressure),
       (SELECT count(*) FROM pgsagaz.outbox_direct)
