-- Kinds that wait for a worker which has their code. ($1: the kinds this process has)
SELECT kind, count(*), min(args ->> 'saga_id') FROM pgsagaz.river_job
WHERE state = 'available' AND kind LIKE 'pgsagaz/%' AND kind <> ALL ($1) AND created_at < now() - interval '2 seconds'
GROUP BY kind
