-- Takes back claims of this transaction whose handler was not called.
DELETE FROM pgsagaz.consumer_inbox WHERE consumer_name = $1 AND event_id = ANY ($2::uuid[])
