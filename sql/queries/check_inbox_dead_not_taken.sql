-- A dead letter whose event does not count as taken: its redelivery would be handled. (A cleanup may have removed the
-- entry, but not before the event was as old as the floor.)
SELECT '', '', 'dead letter ' || d.id || ' of consumer ' || d.consumer_name || ' has no entry in the inbox: event ' || d.event_id
FROM pgsagaz.inbox_dead d, pgsagaz.inbox_state s
WHERE d.reason IN ('attempts', 'terminal', 'no message') AND d.event_id >= s.floor
  AND (d.event_id < 'ff000000-0000-0000-0000-000000000000' OR d.died_at > s.foreign_floor)
  AND NOT EXISTS (SELECT FROM pgsagaz.consumer_inbox i WHERE i.consumer_name = d.consumer_name AND i.event_id = d.event_id)
