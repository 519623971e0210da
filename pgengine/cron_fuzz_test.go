package pgengine_test

import (
	"testing"
	"time"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

// FuzzCron: whatever stands in a schedule, it is refused or has slots that go forward, and that are the same wherever one begins to
// look for them.
func FuzzCron(f *testing.F) {
	for _, expression := range []string{"* * * * *", "*/15 * * * *", "30 2 * * *", "0 */2 * * *", "0 0 29 2 *", "59 23 31 12 7", "*/7 30 2 * * *",
		"@hourly", "@every 1s", "0 0 L * *", "0 0 * * 1#2", "0 0 30 2 *", "TZ=UTC * * * * *", "61 * * * *", "", "\x00", "1-5/0 * * * *", "0 0 1 1 * 2099"} {
		f.Add(expression, "Europe/Berlin", int64(1_774_746_000)) // an hour before the clocks are put forward
		f.Add(expression, "Australia/Lord_Howe", int64(1_775_310_000))
	}
	f.Add("* * * * *", "Local", int64(0))
	f.Add("* * * * *", "../../etc/passwd", int64(0))
	f.Add("0 0 * * *", "UTC", int64(-62_135_596_800))
	f.Fuzz(func(t *testing.T, expression, zone string, unix int64) {
		if unix < 0 || unix > 4_102_444_800 { // 2100
			unix = 0
		}
		begin := time.Unix(unix, 0)
		schedule := pgengine.ScheduleStatus{Cron: expression, Zone: zone}
		slots, err := schedule.Coming(begin, 4)
		if err != nil {
			return
		}
		before := begin
		for i, slot := range slots {
			if !slot.After(before) {
				t.Fatalf("%q in %s: slot %v is not after %v", expression, zone, slot, before)
			}
			again, err := schedule.Coming(slot.Add(-time.Nanosecond), 1)
			if err != nil || len(again) != 1 || !again[0].Equal(slot) {
				t.Fatalf("%q in %s: slot %d is %v, and %v (%v) if one looks from right before it", expression, zone, i, slot, again, err)
			}
			before = slot
		}
	})
}
