-- River's producers listen here. A forged or lost one costs an empty query, or one poll.
SELECT pg_notify('pgsagaz.river_insert', '{"queue":"' || q || '"}') FROM unnest($1::text[]) q
