-- A schedule has started a saga for a slot that is yet to come: it would start it a second time.
SELECT coalesce(s.last_saga::text, ''), '', 'schedule ' || s.name || ' has started slot ' || s.last_at || ', and its next one is ' || s.next_at
FROM pgsagaz.schedule s WHERE s.last_at >= s.next_at
