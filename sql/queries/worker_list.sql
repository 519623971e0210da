SELECT id, host, pid, definitions, started_at, beat_at, beat_at > pgsagaz.now() - lease FROM pgsagaz.worker ORDER BY started_at
