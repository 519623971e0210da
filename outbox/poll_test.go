package outbox

import (
	"testing"
	"time"
)

// TestPollInQuietTimes: a relay looks less often only where a wake is known to come.
func TestPollInQuietTimes(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		poll      time.Duration // of the Config
		listening bool
		busy      time.Duration // how long ago it was
		missed    time.Duration // how long ago a poll was needed; 0: never
		want      time.Duration
	}{
		"quiet":                    {listening: true, busy: time.Minute, want: quietPoll},
		"a message a moment ago":   {listening: true, busy: quietAfter / 2, want: 100 * time.Millisecond},
		"no LISTEN":                {busy: time.Minute, want: 100 * time.Millisecond},
		"writers that do not wake": {listening: true, busy: time.Minute, missed: missedFor / 2, want: 100 * time.Millisecond},
		"they do again":            {listening: true, busy: time.Minute, missed: 2 * missedFor, want: quietPoll},
		"as configured":            {poll: 7 * time.Millisecond, listening: true, busy: time.Minute, want: 7 * time.Millisecond},
	} {
		cfg, err := Config{Poll: c.poll}.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		l := &loop{r: &Relay{}, cfg: cfg, busyUntil: now.Add(-c.busy)}
		l.r.listening.Store(c.listening)
		if c.missed > 0 {
			l.missedAt = now.Add(-c.missed)
		}
		if got := l.poll(now); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
