package jobs

import (
	"testing"
	"time"
)

// An archiver leaves most of the time to the sagas that run, and less of it the longer it has not caught up.
func TestArchiverRests(t *testing.T) {
	for _, c := range []struct{ batch, round, want time.Duration }{
		{0, 0, 20 * time.Millisecond},
		{time.Millisecond, time.Minute, 20 * time.Millisecond},
		{10 * time.Millisecond, time.Hour, 90 * time.Millisecond},
		{10 * time.Millisecond, time.Hour + 1, 40 * time.Millisecond},
		{10 * time.Millisecond, 7 * time.Hour, 20 * time.Millisecond},
		{time.Second, 7 * time.Hour, time.Second},
	} {
		if got := rest(c.batch, c.round); got != c.want {
			t.Errorf("after a batch of %v, %v into the round: %v, want %v", c.batch, c.round, got, c.want)
		}
	}
}
