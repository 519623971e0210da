-- Only forward: whoever had the partition before may be late to say how far he came. A row that was reset since $5 is left out of the count of
-- rows.
INSERT INTO pgsagaz.inbox_offset AS o (consumer_name, topic, partition, next_offset, resets)
SELECT $1::text, m.topic, m.partition, m.next_offset, m.resets
FROM unnest($2::text[], $3::integer[], $4::bigint[], $5::bigint[]) AS m(topic, partition, next_offset, resets)
ORDER BY m.topic, m.partition -- two who save the same wait for each other one way round
ON CONFLICT (consumer_name, topic, partition) DO UPDATE SET next_offset = greatest(o.next_offset, excluded.next_offset),
        moved_at = CASE WHEN o.next_offset < excluded.next_offset THEN pgsagaz.now() ELSE o.moved_at END
    WHERE o.resets = excluded.resets
