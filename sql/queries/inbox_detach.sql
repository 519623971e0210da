-- It waits for the transactions that use the inbox, and blocks nobody meanwhile. The name is replaced.
ALTER TABLE pgsagaz.consumer_inbox DETACH PARTITION pgsagaz.consumer_inbox_20200101 CONCURRENTLY
