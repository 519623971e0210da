-- One order for all callers, by what is locked: two that take the same keys never wait for each other.
SELECT pg_advisory_xact_lock(h) FROM (SELECT DISTINCT hashtextextended(k, 0) AS h FROM unnest($1::text[]) k ORDER BY h OFFSET 0) s
