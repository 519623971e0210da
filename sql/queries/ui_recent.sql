-- How the $1 sagas that were started last have fared, by name: how many have ended and how, and how long that took.
SELECT s.name, count(*), count(*) FILTER (WHERE s.state = 'completed'), count(*) FILTER (WHERE s.state = 'compensated'),
       count(*) FILTER (WHERE s.ended_at > pgsagaz.now() - interval '1 minute'),
       coalesce(percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM s.ended_at - s.created_at)::float8), 0),
       coalesce(percentile_cont(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM s.ended_at - s.created_at)::float8), 0),
       extract(epoch FROM pgsagaz.now() - min(s.created_at))::float8
FROM (SELECT name, state, created_at, ended_at FROM pgsagaz.saga ORDER BY id DESC LIMIT $1) s
GROUP BY s.name ORDER BY count(*) DESC, s.name LIMIT 50
