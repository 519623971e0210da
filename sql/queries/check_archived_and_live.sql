-- A saga lives, and is in the archive.
SELECT s.id::text, '', 'is ' || s.state::text || ', and in the archive'
FROM pgsagaz.saga s JOIN pgsagaz.archive a ON a.id = s.id
