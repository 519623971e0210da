-- A day later than the floor says: the sender's clock may be ahead of ours.
WITH gone AS (
    DELETE FROM pgsagaz.consumer_inbox_foreign WHERE ctid = ANY (ARRAY(
        SELECT i.ctid FROM pgsagaz.consumer_inbox_foreign i
        WHERE i.consumer_name = $1 AND i.consumed_at < (SELECT foreign_floor - interval '1 day' FROM pgsagaz.inbox_state)
        ORDER BY i.consumed_at LIMIT 5000))
    RETURNING consumed_at)
SELECT count(*), max(consumed_at) FROM gone
