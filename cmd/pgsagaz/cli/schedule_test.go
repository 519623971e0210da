package cli

import (
	"testing"
	"time"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// A schedule from its beginning to its end, on the command line, with a worker that starts its sagas.
func TestSchedules(t *testing.T) {
	h := newTheatre(t, sqltest.URL(t))
	contains(t, h.text("schedule", "list"), "no schedules")
	stop := h.work()

	var s pgengine.ScheduleStatus
	h.ok(&s, "schedule", "add", "seconds", "--cron", "* * * * * *", "--saga", "ticket", "--input", `{"id": "1"}`, "--tag", "red", "--timeout", "1h", "--catch-up", "all")
	if s.Name != "seconds" || s.Next == nil || s.CatchUp != pgengine.CatchUpAll || s.Timeout != time.Hour {
		t.Errorf("%+v", s)
	}
	h.eventually(func() bool {
		var list struct{ Sagas []pgengine.Status }
		h.ok(&list, "saga", "list", "--tag", "schedule:seconds", "--state", "completed")
		return len(list.Sagas) > 0
	})
	contains(t, h.text("schedule", "list"), "seconds", "* * * * * *", "UTC", "ticket", "all", "+00:00")
	contains(t, h.text("schedule", "pause", "seconds"), "paused seconds")
	contains(t, h.text("schedule", "list"), "paused")
	contains(t, h.text("schedule", "resume", "seconds"), "seconds goes on")
	var said map[string]string
	h.ok(&said, "schedule", "rm", "seconds")
	if said["name"] != "seconds" || said["command"] != "rm" {
		t.Errorf("%v", said)
	}

	contains(t, h.text("schedule", "add", "yearly", "--cron", "30 2 29 3 *", "--zone", "Europe/Berlin", "--saga", "ticket", "--input", `{"id": "2"}`, "--slot-field", "id"),
		"yearly: next", "-03-29 0")
	contains(t, h.text("schedule", "show", "yearly", "--coming", "2"), "30 2 29 3 *", "Europe/Berlin", "skip, 100 at most", "slot field", "coming", "-03-29 0")
	var shown struct{ Coming []time.Time }
	if h.ok(&shown, "schedule", "show", "yearly"); len(shown.Coming) != 5 {
		t.Errorf("%+v", shown)
	}
	stop()
}

func TestScheduleMistakes(t *testing.T) {
	h := newTheatre(t, sqltest.URL(t))
	for _, c := range []struct {
		code int
		said string
		args []string
	}{
		{exitUsage, "name of one schedule", []string{"show"}},
		{exitUsage, "--coming", []string{"show", "x", "--coming", "-1"}},
		{exitFailed, "no such schedule", []string{"show", "x"}},
		{exitFailed, "no such schedule", []string{"pause", "x"}},
		{exitFailed, "no such schedule", []string{"resume", "x"}},
		{exitFailed, "no such schedule", []string{"rm", "x"}},
		{exitUsage, "--cron is missing", []string{"add", "x"}},
		{exitUsage, "--saga is missing", []string{"add", "x", "--cron", "@daily"}},
		{exitUsage, "--input is missing", []string{"add", "x", "--cron", "@daily", "--saga", "ticket"}},
		{exitUsage, "not JSON", []string{"add", "x", "--cron", "@daily", "--saga", "ticket", "--input", "{"}},
		{exitFailed, `"a b c"`, []string{"add", "x", "--cron", "a b c", "--saga", "ticket", "--input", "{}"}},
		{exitFailed, "Europe/Atlantis", []string{"add", "x", "--cron", "@daily", "--zone", "Europe/Atlantis", "--saga", "ticket", "--input", "{}"}},
		{exitFailed, "CatchUp", []string{"add", "x", "--cron", "@daily", "--catch-up", "often", "--saga", "ticket", "--input", "{}"}},
	} {
		r := h.run(append([]string{"schedule"}, c.args...)...)
		if r.code != c.code {
			t.Errorf("%v: exit code %d, want %d: %s", c.args, r.code, c.code, r.stderr)
		}
		contains(t, r.stderr, c.said)
	}
}
