SELECT topic, partition, next_offset FROM pgsagaz.inbox_offset WHERE consumer_name = $1
