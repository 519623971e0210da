-- Puts the clock of a test's database forward.
UPDATE pgsagaz.test_clock SET ahead = ahead + make_interval(secs => $1)
