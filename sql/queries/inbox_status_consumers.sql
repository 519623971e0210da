-- Entries of the last hour only: each partition's index on (consumer_name, consumed_at) answers for them. Each count stops at $1, so
-- that a busy consumer's costs no more.
WITH RECURSIVE name AS (
    SELECT min(consumer_name) AS n FROM pgsagaz.consumer_inbox
    UNION ALL
    SELECT (SELECT min(i.consumer_name) FROM pgsagaz.consumer_inbox i WHERE i.consumer_name > name.n) FROM name WHERE name.n IS NOT NULL),
letter AS ( -- as above: there may be many of few consumers
    SELECT min(consumer_name) AS n FROM pgsagaz.inbox_dead
    UNION ALL
    SELECT (SELECT min(d.consumer_name) FROM pgsagaz.inbox_dead d WHERE d.consumer_name > letter.n) FROM letter WHERE letter.n IS NOT NULL),
failing AS (
    SELECT min(consumer_name) AS n FROM pgsagaz.inbox_failure
    UNION ALL
    SELECT (SELECT min(f.consumer_name) FROM pgsagaz.inbox_failure f WHERE f.consumer_name > failing.n) FROM failing WHERE failing.n IS NOT NULL),
consumer AS (
    SELECT n FROM name WHERE n IS NOT NULL
    UNION SELECT c.name FROM pgsagaz.inbox_consumer c
    UNION SELECT n FROM letter WHERE n IS NOT NULL
    UNION SELECT n FROM failing WHERE n IS NOT NULL)
SELECT consumer.n, c.horizon, c.retention, c.seen_at,
       (SELECT max(i.consumed_at) FROM pgsagaz.consumer_inbox i WHERE i.consumer_name = consumer.n),
       (SELECT count(*) FROM (SELECT FROM pgsagaz.consumer_inbox i
                              WHERE i.consumer_name = consumer.n AND i.consumed_at > (SELECT pgsagaz.now() - interval '1 hour') LIMIT $1) x),
       (SELECT count(*) FROM (SELECT FROM pgsagaz.inbox_failure f WHERE f.consumer_name = consumer.n LIMIT $1) x),
       (SELECT count(*) FROM (SELECT FROM pgsagaz.inbox_dead d WHERE d.consumer_name = consumer.n LIMIT $1) x),
       (SELECT count(*) FROM (SELECT FROM pgsagaz.inbox_dead d WHERE d.consumer_name = consumer.n AND d.redrive IS NOT NULL LIMIT $1) x)
FROM consumer LEFT JOIN pgsagaz.inbox_consumer c ON c.name = consumer.n
ORDER BY 1
