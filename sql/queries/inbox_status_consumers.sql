-- Entries of the last hour only: each partition's index on (consumer_name, consumed_at) answers for them,
-- however many there are.
WITH RECURSIVE name AS (
    SELECT min(consumer_name) AS n FROM pgsagaz.consumer_inbox
    UNION ALL
    SELECT (SELECT min(i.consumer_name) FROM pgsagaz.consumer_inbox i WHERE i.consumer_name > name.n) FROM name WHERE name.n IS NOT NULL),
consumer AS (
    SELECT n FROM name WHERE n IS NOT NULL
    UNION SELECT c.name FROM pgsagaz.inbox_consumer c
    UNION SELECT d.consumer_name FROM pgsagaz.inbox_dead d
    UNION SELECT f.consumer_name FROM pgsagaz.inbox_failure f)
SELECT consumer.n, c.horizon, c.retention, c.seen_at,
       (SELECT max(i.consumed_at) FROM pgsagaz.consumer_inbox i WHERE i.consumer_name = consumer.n),
       (SELECT count(*) FROM pgsagaz.consumer_inbox i WHERE i.consumer_name = consumer.n AND i.consumed_at > pgsagaz.now() - interval '1 hour'),
       (SELECT count(*) FROM pgsagaz.inbox_failure f WHERE f.consumer_name = consumer.n),
       (SELECT count(*) FROM pgsagaz.inbox_dead d WHERE d.consumer_name = consumer.n),
       (SELECT count(*) FROM pgsagaz.inbox_dead d WHERE d.consumer_name = consumer.n AND d.redrive IS NOT NULL)
FROM consumer LEFT JOIN pgsagaz.inbox_consumer c ON c.name = consumer.n
ORDER BY 1
