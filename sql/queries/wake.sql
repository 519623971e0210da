-- River's producers listen on the one channel, workers that must hear of a saga which turns back ('halt:ID') on
-- the other. A forged or lost one costs an empty query, or one poll.
SELECT CASE WHEN q LIKE 'halt:%' THEN pg_notify('pgsagaz.halt', substr(q, 6))
            ELSE pg_notify('pgsagaz.river_insert', '{"queue":"' || q || '"}') END
FROM unnest($1::text[]) q
