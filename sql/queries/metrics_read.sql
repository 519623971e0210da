SELECT name, labels, value FROM pgsagaz.metrics
