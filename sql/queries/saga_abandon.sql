-- Under the saga's lock: what is not undone yet will not be. It has turned back already, and keeps why.
UPDATE pgsagaz.saga SET cause = cause || '{"no_undo": true}' WHERE id = $1 AND cause IS NOT NULL
