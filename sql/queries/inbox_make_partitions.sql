-- A week ahead: an hour in which nobody makes them is no matter.
SELECT pgsagaz.inbox_make_partitions(pgsagaz.now() + interval '7 days')
