-- Committed before anything is dropped. The floor of UUIDv7s goes by whole partitions.
UPDATE pgsagaz.inbox_state s SET
    floor = greatest(s.floor, coalesce((
        SELECT p.upper FROM pgsagaz.inbox_partition p WHERE p.upper <= pgsagaz.inbox_bound(pgsagaz.now() - $1::interval) ORDER BY p.upper DESC LIMIT 1), s.floor)),
    foreign_floor = greatest(s.foreign_floor, pgsagaz.now() - $1::interval)
RETURNING pgsagaz.inbox_time(floor), foreign_floor
