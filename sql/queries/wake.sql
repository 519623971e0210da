-- River's producers listen on the one channel, workers that must hear of a saga which turns back ('halt:ID') on
-- the second, the outbox's relays ('outbox:BUCKET') on the third. A forged or lost one costs an empty query, or one poll.
SELECT CASE WHEN q LIKE 'halt:%' THEN pg_notify('pgsagaz.halt', substr(q, 6))
            ELSE pg_notify('pgsagaz.river_insert', '{"queue":"' || q || '"}') END
FROM unnest($1::text[]) q WHERE NOT starts_with(q, 'outbox:')
UNION ALL
SELECT pg_notify('pgsagaz.outbox', string_agg(substr(q, 8), ',')) FROM unnest($1::text[]) q WHERE starts_with(q, 'outbox:') HAVING count(*) > 0
