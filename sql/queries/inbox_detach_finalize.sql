-- Ends what an interrupted DETACH has begun. The name is replaced.
ALTER TABLE pgsagaz.consumer_inbox DETACH PARTITION pgsagaz.consumer_inbox_20200101 FINALIZE
