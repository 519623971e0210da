-- What this worker drives, and how long ago its saga began to turn back, in seconds; null: it has not.
SELECT l.saga_id::text, l.id, l.token,
       (SELECT extract(epoch FROM pgsagaz.now() - s.turned_at)::float8 FROM pgsagaz.saga s WHERE s.id = l.saga_id AND s.state = 'failing')
FROM pgsagaz.lane l WHERE l.worker = $1
