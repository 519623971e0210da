SELECT pgsagaz.archive_retain(pgsagaz.now() - make_interval(secs => $1), pgsagaz.now() - make_interval(secs => $2))
