SELECT moved, next_in FROM pgsagaz.outbox_due($1)
