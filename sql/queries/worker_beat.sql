UPDATE pgsagaz.worker SET beat_at = pgsagaz.now() WHERE id = $1
