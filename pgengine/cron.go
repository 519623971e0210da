package pgengine

import (
	"fmt"
	"strings"
	"time"

	"github.com/netresearch/go-cron"
)

// cronParser reads cron expressions. Of the parsers there are, this one is kept up (robfig/cron, of which it is the
// continuation, has had no release since 2020), reads what crontab(5) does and the usual additions, has no dependencies, and
// takes seconds in front. (hashicorp/cronexpr reads six fields as five and a year; adhocore/gronx parses an
// expression again for each time.) Only its parser is used, on clocks that know no summer time: what that does to a
// schedule is said here.
var cronParser = cron.MustNewParser(cron.SecondOptional | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow |
	cron.Descriptor | cron.Extended | cron.DowOrDom).WithMaxSearchYears(12) // 29 February from 2096 to 2104

// cronClock tells the slots of a schedule: a cron expression on the clocks of a time zone.
//
// Where the clock is put forward, times that do not exist, and where it is put back, times that come twice:
//
//   - An expression whose hours begin with a * ("*/15 * * * *", "0 */2 * * *") goes by what the clock shows: hours that
//     do not exist have no slots, and hours that come twice have theirs twice. So the time between two slots stays
//     what it is.
//   - Any other means times of the day ("30 2 * * *"), each of which comes once a day: one that does not exist is due at
//     the moment when the clock is put forward, and one that comes twice the first time.
type cronClock struct {
	fields   cron.Schedule // as if the zone had no changes
	zone     *time.Location
	interval bool // its hours begin with a *
}

func newCronClock(expression, zone string) (*cronClock, error) {
	if zone == "Local" {
		return nil, fmt.Errorf("the time zone %q is another one on each machine: name it", zone)
	}
	location, err := time.LoadLocation(zone)
	if err != nil {
		return nil, fmt.Errorf("the time zone %q: %w", zone, err)
	}
	words := strings.Fields(expression)
	if len(words) > 0 && strings.Contains(words[0], "TZ=") {
		return nil, fmt.Errorf("cron expression %q: name the time zone beside it", expression)
	}
	fields, err := cronParser.Parse(expression)
	if err != nil {
		return nil, fmt.Errorf("cron expression %q: %w", expression, err)
	}
	spec, ok := fields.(*cron.SpecSchedule)
	if !ok {
		return nil, fmt.Errorf("cron expression %q: it has no slots on a clock; name its minutes and hours", expression)
	}
	spec.Location = time.UTC
	c := &cronClock{fields: spec, zone: location, interval: strings.EqualFold(words[0], "@hourly")}
	if len(words) >= 5 {
		c.interval = strings.HasPrefix(words[len(words)-4], "*")
	}
	return c, nil
}

// next is the first slot after t; zero: there is none in the next years.
//
// It goes from one change of the zone's clock to the next: in between, that clock is Greenwich's, shifted.
func (c *cronClock) next(t time.Time) time.Time {
	for after := t; ; {
		start, end := t.In(c.zone).ZoneBounds()
		if !end.IsZero() && !end.After(t) { // package time counts 365 days to every year that a zone's table does not list
			end = t.Add(24 * time.Hour)
		}
		shift := c.shift(t)
		if !c.interval && !start.IsZero() { // what it has shown before it was put back has had its slots
			if again := start.Add(c.shift(start.Add(-1)) - shift).Add(-1); again.After(after) {
				after = again
			}
		}
		slot := c.fields.Next(after.UTC().Add(shift))
		if slot.IsZero() {
			return slot
		}
		if slot = slot.Add(-shift); end.IsZero() || slot.Before(end) {
			return slot
		}
		if !c.interval && slot.Before(end.Add(c.shift(end)-shift)) { // the clock is put forward over it
			return end.UTC()
		}
		t, after = end, end.Add(-1) // end itself may be a slot
	}
}

// last are the latest slots, up to n, of those from from to to.
func (c *cronClock) last(n int, from, to time.Time) []time.Time {
	// Not all from the beginning: that may be years of seconds.
	for window := time.Minute; ; window *= 4 {
		begin := to.Add(-window)
		if begin.Before(from) || window > 100*365*24*time.Hour {
			begin = from
		}
		var slots []time.Time
		for s := c.next(begin.Add(-1)); !s.IsZero() && !s.After(to); s = c.next(s) {
			slots = append(slots, s)
		}
		if len(slots) >= n || !begin.After(from) {
			return slots[max(0, len(slots)-n):]
		}
	}
}

// shift is how far the zone's clock is ahead of Greenwich's at t.
func (c *cronClock) shift(t time.Time) time.Duration {
	_, seconds := t.In(c.zone).Zone()
	return time.Duration(seconds) * time.Second
}
