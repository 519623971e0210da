-- With the effect of the event.
DELETE FROM pgsagaz.inbox_failure WHERE consumer_name = $1 AND event_id = ANY ($2::uuid[])
