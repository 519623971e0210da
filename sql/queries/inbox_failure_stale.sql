-- Of events that have gone well elsewhere, by somebody who had not seen them fail.
DELETE FROM pgsagaz.inbox_failure f WHERE consumer_name = $1
    AND EXISTS (SELECT FROM pgsagaz.consumer_inbox i WHERE i.consumer_name = f.consumer_name AND i.event_id = f.event_id)
