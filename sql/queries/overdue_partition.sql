-- The inbox has no partition for tomorrow, although somebody consumes: nobody makes them ahead, and claims have to.
SELECT '', '', 'the partitions of the inbox end at ' || pgsagaz.inbox_time(s.ceiling)
FROM pgsagaz.inbox_state s
WHERE pgsagaz.inbox_time(s.ceiling) < pgsagaz.now() + interval '1 day'
  AND EXISTS (SELECT FROM pgsagaz.inbox_consumer c WHERE c.seen_at <= pgsagaz.now() - $1::interval)
