package sagaui

import (
	"net/http"
	"time"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

// Schedules are all that start sagas by the clock.
type Schedules struct {
	Schedules []pgengine.ScheduleStatus `json:"schedules"`
}

func (c *console) schedules(r *http.Request) (any, error) {
	all, err := c.engine.Schedules(r.Context())
	if all == nil {
		all = []pgengine.ScheduleStatus{}
	}
	for i := range all {
		all[i].Input = nil // one at a time
	}
	return Schedules{all}, err
}

// Schedule is one, with the slots that it will come to.
type Schedule struct {
	pgengine.ScheduleStatus
	Coming   []time.Time `json:"coming"`
	Withheld bool        `json:"withheld"` // the input, for want of permission

	In      text    `json:"-"`
	Actions []offer `json:"-"`
}

func (s Schedule) title() string { return s.Name }

// Link leads from the schedule's own page to what lies below it.
func (s Schedule) Link() string { return escaped(s.Name) }

func (c *console) schedule(r *http.Request) (any, error) {
	on, err := loadSchedule(c, r)
	if err != nil {
		return nil, err
	}
	s := Schedule{ScheduleStatus: *on.schedule, Coming: []time.Time{}, Actions: c.offers(r, on)}
	if s.Paused == nil && s.Next != nil {
		if s.Coming, err = s.ScheduleStatus.Coming(s.Next.Add(-time.Second), 5); err != nil {
			return nil, err
		}
	}
	if c.may(r, Payloads, nil) != nil {
		s.Input, s.Withheld = nil, true
	}
	s.In = c.pretty(s.Input)
	return s, nil
}
