-- Each count stops at $1.
SELECT (SELECT count(*) FROM (SELECT FROM pgsagaz.outbox_dead LIMIT $1) x), (SELECT count(*) FROM (SELECT FROM pgsagaz.outbox_scheduled LIMIT $1) x),
       (SELECT coalesce(extract(epoch FROM min(due_at) - pgsagaz.now()), 0)::float8 FROM pgsagaz.outbox_scheduled),
       (SELECT coalesce(max(max_pending), 0) FROM pgsagaz.outbox_pressure),
       (SELECT count(*) FROM (SELECT FROM pgsagaz.outbox_direct LIMIT $1) x)
