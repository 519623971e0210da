UPDATE pgsagaz.saga SET paused_at = NULL WHERE paused_at IS NOT NULL AND ended_at IS NOT NULL AND $1::interval IS NOT NULL
RETURNING id::text, name, '', 'it has ended, and is not paused'
