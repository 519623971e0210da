package pgengine_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

// The slots of an expression around a change of the clock, by the rule that docs/schedules.md gives.
func TestSlotsWhereTheClockChanges(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, cron, zone, after, want string }{
		{"a time that does not exist is due at the change", "30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z 2026-03-30T00:30:00Z"},
		{"one just before it", "59 1 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-29T00:59:00Z 2026-03-29T23:59:00Z"},
		{"one just after it", "0 3 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z 2026-03-30T01:00:00Z"},
		{"several that do not exist are one", "0,20,40 2,3 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z 2026-03-29T01:20:00Z"},
		{"a time that comes twice is due the first time", "30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z 2026-10-26T01:30:00Z"},
		{"the hour after it comes once", "0 3 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", "2026-10-25T02:00:00Z 2026-10-26T02:00:00Z"},
		{"each hour, put forward", "0 * * * *", "Europe/Berlin", "2026-03-28T23:30:00Z", "2026-03-29T00:00:00Z 2026-03-29T01:00:00Z 2026-03-29T02:00:00Z"},
		{"each hour, put back", "@hourly", "Europe/Berlin", "2026-10-24T23:30:00Z", "2026-10-25T00:00:00Z 2026-10-25T01:00:00Z 2026-10-25T02:00:00Z"},
		{"every second hour, put forward", "0 */2 * * *", "Europe/Berlin", "2026-03-28T22:30:00Z", "2026-03-28T23:00:00Z 2026-03-29T02:00:00Z"},
		{"midnight that does not exist", "@daily", "America/Sao_Paulo", "2017-10-14T12:00:00Z", "2017-10-15T03:00:00Z 2017-10-16T02:00:00Z"},
		{"half an hour, put forward", "15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", "2026-10-03T15:30:00Z 2026-10-04T15:15:00Z"},
		{"a day that does not exist", "0 9 * * *", "Pacific/Apia", "2011-12-29T12:00:00Z", "2011-12-29T19:00:00Z 2011-12-30T10:00:00Z 2011-12-30T19:00:00Z"},
		{"29 February", "0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z 2032-02-29T00:00:00Z"},
		{"either day", "0 0 13 * FRI", "UTC", "2026-11-06T00:00:00Z", "2026-11-13T00:00:00Z 2026-11-20T00:00:00Z"},
		{"seconds", "*/20 * * * * *", "", "2026-01-01T00:00:00.5Z", "2026-01-01T00:00:20Z 2026-01-01T00:00:40Z 2026-01-01T00:01:00Z"},
		{"the last day of a month", "0 0 L * *", "UTC", "2026-02-01T00:00:00Z", "2026-02-28T00:00:00Z 2026-03-31T00:00:00Z"},
	} {
		after, err := time.Parse(time.RFC3339, test.after)
		if err != nil {
			t.Fatal(err)
		}
		want := strings.Fields(test.want)
		slots, err := pgengine.ScheduleStatus{Cron: test.cron, Zone: test.zone}.Coming(after, len(want))
		var got []string
		for _, s := range slots {
			got = append(got, s.Format(time.RFC3339))
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %s in %s: %v, %v, want %v", test.name, test.cron, test.zone, got, err, want)
		}
	}
}

// Random minutes and hours, against the rule told the other way round: the clock is looked at minute by minute.
func TestSlotsAgainstTheClock(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(17, 0)) //nolint:gosec // a test's
	some := func(n, below int) (list []int) {
		for range n {
			list = append(list, r.IntN(below))
		}
		return list
	}
	text := func(list []int) string {
		var words []string
		for _, i := range list {
			words = append(words, strconv.Itoa(i))
		}
		return strings.Join(words, ",")
	}
	for _, at := range []struct{ zone, day string }{
		{"Europe/Berlin", "2026-03-28"}, {"Europe/Berlin", "2026-10-24"}, {"America/New_York", "2026-03-07"}, {"America/New_York", "2026-10-31"},
		{"Australia/Lord_Howe", "2026-10-03"}, {"Australia/Lord_Howe", "2026-04-04"}, {"America/Sao_Paulo", "2017-10-14"}, {"America/Sao_Paulo", "2018-02-17"},
		{"Pacific/Apia", "2011-12-29"}, {"Asia/Kolkata", "2026-03-28"}, {"Africa/Casablanca", "2026-02-14"}, {"Antarctica/Troll", "2026-03-28"},
	} {
		zone, err := time.LoadLocation(at.zone)
		if err != nil {
			t.Fatal(err)
		}
		begin, err := time.ParseInLocation("2006-01-02", at.day, zone)
		if err != nil {
			t.Fatal(err)
		}
		end := begin.Add(72 * time.Hour)
		for range 60 {
			minutes, hours := some(1+r.IntN(3), 60), some(1+r.IntN(4), 5)
			interval := r.IntN(3) == 0
			expression := fmt.Sprintf("%s %s * * *", text(minutes), text(hours))
			if interval {
				expression = text(minutes) + " * * * *"
			}
			means := func(wall time.Time) bool {
				return slices.Contains(minutes, wall.Minute()) && (interval || slices.Contains(hours, wall.Hour()))
			}
			want := map[time.Time]bool{}
			shown := map[string]bool{}
			for i := begin; i.Before(end); i = i.Add(time.Minute) {
				wall := i.In(zone)
				if face := wall.Format("02 15:04"); means(wall) && (interval || !shown[face]) {
					want[i.UTC()] = true
				}
				shown[wall.Format("02 15:04")] = true
				// What the clock jumps over, as it would have been shown.
				_, before := i.Add(-1).In(zone).Zone()
				_, after := wall.Zone()
				for s := before; s < after && !interval; s += 60 {
					if means(i.UTC().Add(time.Duration(s) * time.Second)) {
						want[i.UTC()] = true
					}
				}
			}
			slots, err := pgengine.ScheduleStatus{Cron: expression, Zone: at.zone}.Coming(begin.Add(-1), len(want)+1)
			if err != nil {
				t.Fatal(err)
			}
			got := map[time.Time]bool{}
			for _, s := range slots {
				if s.Before(end) {
					got[s.UTC()] = true
				}
			}
			for s := range want {
				if !got[s] {
					t.Errorf("%s in %s: no slot at %v", expression, at.zone, s.In(zone))
				}
			}
			for s := range got {
				if !want[s] {
					t.Errorf("%s in %s: a slot at %v", expression, at.zone, s.In(zone))
				}
			}
		}
	}
}
