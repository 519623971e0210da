-- Of messages that never came again.
DELETE FROM pgsagaz.inbox_failure WHERE last_at < (SELECT foreign_floor FROM pgsagaz.inbox_state)
