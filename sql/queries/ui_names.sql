-- The names of sagas that are registered.
SELECT DISTINCT name FROM pgsagaz.definition ORDER BY name
