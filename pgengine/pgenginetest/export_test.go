package pgenginetest

import "time"

// SetRunTimeout changes how long Run waits, and returns how to change it back.
func SetRunTimeout(d time.Duration) (restore func()) {
	was := runTimeout
	runTimeout = d
	return func() { runTimeout = was }
}
