-- A cursor that sees what is yet to begin skips it.
SELECT '', '', format('cursor %s of the outbox has seen transaction %s, and the next is %s', c.id,
                      greatest(pg_snapshot_xmax(c.prev), pg_snapshot_xmax(c.cur)), pg_snapshot_xmax(pg_current_snapshot()))
FROM pgsagaz.outbox_cursor c, pgsagaz.outbox_state s
WHERE s.system_identifier = (SELECT system_identifier FROM pg_control_system())
  AND greatest(pg_snapshot_xmax(c.prev), pg_snapshot_xmax(c.cur)) > pg_snapshot_xmax(pg_current_snapshot())
