-- Only forward: whoever had the partition before may be late to say how far he came. A reset ($5) sets it all the same.
INSERT INTO pgsagaz.inbox_offset AS o (consumer_name, topic, partition, next_offset)
SELECT $1::text, m.topic, m.partition, m.next_offset FROM unnest($2::text[], $3::integer[], $4::bigint[]) AS m(topic, partition, next_offset)
ORDER BY m.topic, m.partition -- two who save the same wait for each other one way round
ON CONFLICT (consumer_name, topic, partition) DO UPDATE SET next_offset = excluded.next_offset, moved_at = pgsagaz.now()
    WHERE $5::boolean OR o.next_offset < excluded.next_offset
