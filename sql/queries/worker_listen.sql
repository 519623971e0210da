-- Sagas that turn back, and do not wait for what is under way.
LISTEN "pgsagaz.halt"
