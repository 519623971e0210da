-- What keeps the database from cleaning up, here or in any other database, and how full the queue of NOTIFY is.
SELECT greatest((SELECT coalesce(max(age(backend_xmin)), 0) FROM pg_stat_activity),
                (SELECT coalesce(max(greatest(age(xmin), age(catalog_xmin))), 0) FROM pg_replication_slots),
                (SELECT coalesce(max(age(transaction)), 0) FROM pg_prepared_xacts)),
       (SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::float8 FROM pg_stat_activity WHERE state <> 'idle'),
       (SELECT count(*) FROM pg_prepared_xacts), pg_notification_queue_usage()
