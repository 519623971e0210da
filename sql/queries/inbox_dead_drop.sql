-- Its entry in consumer_inbox stays: a redelivery is a duplicate.
DELETE FROM pgsagaz.inbox_dead WHERE id = ANY ($1::bigint[]) RETURNING id
