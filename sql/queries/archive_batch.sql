SELECT pgsagaz.archive_batch(pgsagaz.now() - make_interval(secs => $1), $2)
