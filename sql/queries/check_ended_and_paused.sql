-- A saga has ended and is paused: it could never be reopened. (Not a CHECK: see saga_state.)
SELECT id::text, '', 'is ' || state::text || ', and paused' FROM pgsagaz.saga WHERE paused_at IS NOT NULL AND ended_at IS NOT NULL
