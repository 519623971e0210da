-- One cleanup at a time, and if its process dies the next one ten minutes later. No session's lock: behind a pooler
-- that one would be nobody's. Two at once would only be in each other's way.
UPDATE pgsagaz.inbox_state SET cleaning = pgsagaz.now() + interval '10 minutes' WHERE cleaning < pgsagaz.now()
