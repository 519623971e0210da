SELECT topic, partition, next_offset, resets FROM pgsagaz.inbox_offset WHERE consumer_name = $1
