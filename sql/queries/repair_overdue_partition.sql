SELECT '', '', '', format('the inbox has %s new partitions', pgsagaz.inbox_make_partitions(pgsagaz.now() + interval '7 days'))
FROM pgsagaz.inbox_state s
WHERE pgsagaz.inbox_time(s.ceiling) < pgsagaz.now() + interval '1 day'
  AND EXISTS (SELECT FROM pgsagaz.inbox_consumer c WHERE c.seen_at <= pgsagaz.now() - $1::interval)
