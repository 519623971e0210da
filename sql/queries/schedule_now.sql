-- It locks the name: of two who put a schedule of it at once, the second sees what the first has put.
SELECT pgsagaz.now() FROM pg_advisory_xact_lock(hashtextextended('schedule/' || $1, 0))
