-- A step that works in Postgres is never in doubt: it has committed, or it has not happened.
SELECT s.id::text, r.step, 'is a TxStep and recorded as in doubt'
FROM pgsagaz.step r
JOIN pgsagaz.saga s ON s.id = r.saga_id
JOIN pgsagaz.definition d USING (name, version)
JOIN jsonb_array_elements(d.graph -> 'steps') n ON n ->> 'name' = r.step
WHERE r.in_doubt AND n ->> 'kind' = 'tx' AND coalesce(s.ended_at, 'infinity') >= d.registered_at
