-- Also back. Who counts from before saves nothing any more, and a row that was reset since $5 is left out of the count of rows.
INSERT INTO pgsagaz.inbox_offset AS o (consumer_name, topic, partition, next_offset, resets)
SELECT $1::text, m.topic, m.partition, m.next_offset, m.resets + 1
FROM unnest($2::text[], $3::integer[], $4::bigint[], $5::bigint[]) AS m(topic, partition, next_offset, resets)
ORDER BY m.topic, m.partition
ON CONFLICT (consumer_name, topic, partition) DO UPDATE SET next_offset = excluded.next_offset, resets = excluded.resets, moved_at = pgsagaz.now()
    WHERE o.resets + 1 = excluded.resets
