package pgengine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/pgengine/pgenginetest"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// report is what is started by the clock.
type report struct {
	Of string    `json:"of"`
	At time.Time `json:"at,omitzero"`
}

func (report) SagaName() string { return "report" }

func reports() pgengine.Definition {
	return pgengine.Saga[report]{Version: 1, Steps: pgengine.Steps[report](pgengine.TxStep[report, string]{
		Name: "write", Do: func(_ context.Context, _ pgx.Tx, c pgengine.Call[report]) (string, error) {
			return c.Input.At.Format(time.RFC3339), nil
		},
	})}
}

// timetable is a sandbox whose clock stands where a test puts it.
type timetable struct {
	*pgenginetest.Sandbox
	t *testing.T
}

func newTimetable(t *testing.T, at string) *timetable {
	s := &timetable{Sandbox: pgenginetest.NewSandbox(t, sqltest.New(t), reports()), t: t}
	s.goTo(at)
	return s
}

// goTo puts the clock to a time, and there it stays but for what the test takes.
func (s *timetable) goTo(at string) {
	s.t.Helper()
	to, err := time.Parse(time.RFC3339, at)
	if err != nil {
		s.t.Fatal(err)
	}
	s.Advance(to.Sub(s.now()))
}

func (s *timetable) now() (now time.Time) {
	s.t.Helper()
	if err := s.Engine.Pool().QueryRow(s.t.Context(), `SELECT pgsagaz.now()`).Scan(&now); err != nil {
		s.t.Fatal(err)
	}
	return now
}

func (s *timetable) schedule(p pgengine.Schedule) {
	s.t.Helper()
	s.Tx(func(tx pgx.Tx) error { return s.Engine.Schedule(s.t.Context(), tx, report{Of: "sales"}, p) })
}

// slots are those that have a saga, by their start keys.
func (s *timetable) slots() []string {
	s.t.Helper()
	var slots []string
	for saga, err := range s.Engine.List(s.t.Context(), pgengine.Filter{Name: "report"}) {
		if err != nil {
			s.t.Fatal(err)
		}
		words := strings.Fields(saga.Key)
		slots = append(slots, words[len(words)-1])
	}
	slices.Sort(slots)
	return slots
}

func (s *timetable) want(slots ...string) {
	s.t.Helper()
	if got := s.slots(); !slices.Equal(got, slots) {
		s.t.Errorf("sagas of the slots %v, want %v", got, slots)
	}
}

// Eight workers look at once, again and again, while the clock is put over both changes of the clock: each slot has one saga,
// and none is left out.
func TestEachSlotOnce(t *testing.T) {
	t.Parallel()
	s := newTimetable(t, "2026-03-27T12:00:00Z")
	s.schedule(pgengine.Schedule{Name: "daily", Cron: "30 2 * * *", Zone: "Europe/Berlin", CatchUp: pgengine.CatchUpAll})
	s.schedule(pgengine.Schedule{Name: "hourly", Cron: "15 * * * *", Zone: "Europe/Berlin", CatchUp: pgengine.CatchUpAll})
	look := func() {
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if _, _, err := s.Engine.RunSchedules(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
	over := func(from string, hours int) {
		s.goTo(from)
		look()
		for range hours {
			s.Advance(time.Hour)
			look()
		}
	}
	over("2026-03-28T12:00:00Z", 48)
	spring := len(s.slots())
	over("2026-10-24T12:00:00Z", 48)
	perDay, perHour := map[string]int{}, map[string]int{}
	for _, slot := range s.slots() {
		at, err := time.Parse(time.RFC3339, slot)
		if err != nil {
			t.Fatal(err)
		}
		if perHour[slot]++; perHour[slot] > 1 {
			t.Errorf("slot %s twice", slot)
		}
		if at.Minute() != 15 {
			zone, _ := time.LoadLocation("Europe/Berlin")
			perDay[at.In(zone).Format("2006-01-02")]++
		}
	}
	for _, day := range []string{"2026-03-28", "2026-03-29", "2026-03-30", "2026-10-25", "2026-10-26"} {
		if perDay[day] != 1 {
			t.Errorf("%d slots on %s, want 1", perDay[day], day)
		}
	}
	// From one Friday noon to Monday noon: 72 hours and three days. Over the summer no more than Most.
	if spring != 72+3 {
		t.Errorf("%d slots in spring, want 75", spring)
	}
	for _, slot := range []string{"2026-10-25T00:15:00Z", "2026-10-25T01:15:00Z", "2026-03-29T01:00:00Z", "2026-10-25T00:30:00Z"} {
		if perHour[slot] != 1 {
			t.Errorf("slot %s: %d sagas, want 1", slot, perHour[slot])
		}
	}
}

// An hour without a worker, under each policy.
func TestCatchUp(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		schedule pgengine.Schedule
		want     []string // after 12:00:30 to 13:00:30
	}{
		{pgengine.Schedule{Cron: "*/10 * * * *"}, []string{"2026-05-04T13:00:00Z"}},
		{pgengine.Schedule{Cron: "5-59/10 * * * *"}, nil},
		{pgengine.Schedule{Cron: "*/10 * * * *", CatchUp: pgengine.CatchUpOnce}, []string{"2026-05-04T13:00:00Z"}},
		{pgengine.Schedule{Cron: "5-59/10 * * * *", CatchUp: pgengine.CatchUpOnce}, []string{"2026-05-04T12:55:00Z"}},
		{pgengine.Schedule{Cron: "*/20 * * * *", CatchUp: pgengine.CatchUpAll}, []string{"2026-05-04T12:20:00Z", "2026-05-04T12:40:00Z", "2026-05-04T13:00:00Z"}},
		{pgengine.Schedule{Cron: "* * * * * *", CatchUp: pgengine.CatchUpAll, Most: 2}, []string{"2026-05-04T13:00:29Z", "2026-05-04T13:00:30Z"}},
		{pgengine.Schedule{Cron: "*/20 * * * *", Grace: 30 * time.Minute}, []string{"2026-05-04T12:40:00Z", "2026-05-04T13:00:00Z"}},
	} {
		t.Run(fmt.Sprintf("%s %s %d", test.schedule.Cron, test.schedule.CatchUp, test.schedule.Most), func(t *testing.T) {
			t.Parallel()
			s := newTimetable(t, "2026-05-04T12:00:30Z")
			test.schedule.Name = "late"
			s.schedule(test.schedule)
			s.goTo("2026-05-04T13:00:30Z")
			s.Run()
			s.want(test.want...)
			s.Run() // and no more
			s.want(test.want...)
			status, err := s.Engine.GetSchedule(t.Context(), "late")
			if err != nil || status.Next == nil || !status.Next.After(s.now().Add(-time.Second)) || status.Error != "" {
				t.Errorf("%+v, %v", status, err)
			}
		})
	}
}

// What was missed in years is not counted second by second.
func TestCatchUpOfYears(t *testing.T) {
	t.Parallel()
	s := newTimetable(t, "2026-05-04T12:00:30Z")
	s.schedule(pgengine.Schedule{Name: "seconds", Cron: "* * * * * *", CatchUp: pgengine.CatchUpAll, Most: 3})
	s.goTo("2066-05-04T12:00:30Z")
	begun := time.Now()
	s.Run()
	if got := s.slots(); len(got) < 3 || !strings.HasPrefix(got[0], "2066-05-04T12:00:") || time.Since(begun) > 20*time.Second {
		t.Errorf("%v after %v", got, time.Since(begun))
	}
}

// The slot reaches the saga, with the schedule's tags; the sagas are found by them.
func TestSlotField(t *testing.T) {
	t.Parallel()
	s := newTimetable(t, "2026-05-04T12:00:30Z")
	s.schedule(pgengine.Schedule{Name: "eu/sales", Cron: "0 13 * * *", Zone: "Europe/Berlin", SlotField: "at", Tags: []string{"eu"}, Timeout: time.Hour})
	s.goTo("2026-05-05T11:00:01Z")
	s.Run()
	for _, tag := range []string{"eu", "schedule:eu/sales"} {
		n := 0
		for saga, err := range s.Engine.List(t.Context(), pgengine.Filter{Tag: tag}) {
			n++
			whole := s.Get(saga.ID)
			var in report
			if err != nil || json.Unmarshal(whole.Input, &in) != nil || in.Of != "sales" || in.At.Format(time.RFC3339) != "2026-05-05T11:00:00Z" ||
				whole.State != pgengine.Completed || whole.Deadline == nil {
				t.Errorf("%+v, %v", whole, err)
			}
		}
		if n != 1 {
			t.Errorf("%d sagas with the tag %s, want 1", n, tag)
		}
	}
	status, err := s.Engine.GetSchedule(t.Context(), "eu/sales")
	if err != nil || status.Last == nil || status.LastSaga == "" || !slices.Equal(s.slots(), []string{status.Last.UTC().Format(time.RFC3339)}) {
		t.Errorf("%+v, %v", status, err)
	}
}

// The slots of a pause are not missed, and what is there stays as it is, whoever says it again.
func TestPauseAndChangeASchedule(t *testing.T) {
	t.Parallel()
	s := newTimetable(t, "2026-05-04T12:00:30Z")
	hourly := pgengine.Schedule{Name: "hourly", Cron: "0 * * * *", CatchUp: pgengine.CatchUpAll}
	s.schedule(hourly)
	s.Tx(func(tx pgx.Tx) error { return s.Engine.PauseSchedule(t.Context(), tx, "hourly", pgengine.By{}) })
	s.Tx(func(tx pgx.Tx) error { return s.Engine.PauseSchedule(t.Context(), tx, "hourly", pgengine.By{}) })
	s.schedule(hourly) // a process that starts; the pause stays
	s.goTo("2026-05-04T14:30:00Z")
	s.Run()
	s.want()
	s.Tx(func(tx pgx.Tx) error { return s.Engine.ResumeSchedule(t.Context(), tx, "hourly", pgengine.By{}) })
	s.goTo("2026-05-04T15:00:30Z")
	s.Tx(func(tx pgx.Tx) error { return s.Engine.ResumeSchedule(t.Context(), tx, "hourly", pgengine.By{}) }) // does not jump the slot that is due
	s.schedule(hourly)                                                                                       // nor does this
	s.Run()
	s.want("2026-05-04T15:00:00Z")
	hourly.Cron = "30 * * * *"
	s.schedule(hourly)
	s.goTo("2026-05-04T16:00:30Z")
	s.Run()
	s.want("2026-05-04T15:00:00Z", "2026-05-04T15:30:00Z")
	s.Tx(func(tx pgx.Tx) error { return s.Engine.Unschedule(t.Context(), tx, "hourly", pgengine.By{}) })
	s.goTo("2026-05-04T18:00:30Z")
	s.Run()
	s.want("2026-05-04T15:00:00Z", "2026-05-04T15:30:00Z")
	if all, err := s.Engine.Schedules(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("%v, %v", all, err)
	}
	if _, next, err := s.Engine.RunSchedules(t.Context()); err != nil || next != math.MaxInt64 {
		t.Errorf("%v, %v, want nothing ever", next, err)
	}
}

// A schedule that can't start its saga keeps its slots and says why, and the others go on.
func TestAScheduleThatFails(t *testing.T) {
	t.Parallel()
	s := newTimetable(t, "2026-05-04T12:00:30Z")
	s.Tx(func(tx pgx.Tx) error {
		return s.Engine.ScheduleJSON(t.Context(), tx, "unheard-of", json.RawMessage(`{}`), pgengine.Schedule{Name: "a", Cron: "0 * * * *", Grace: time.Hour})
	})
	s.schedule(pgengine.Schedule{Name: "b", Cron: "0 * * * *"})
	s.goTo("2026-05-04T13:00:01Z")
	s.Run()
	s.want("2026-05-04T13:00:00Z")
	status, err := s.Engine.GetSchedule(t.Context(), "a")
	if err != nil || !strings.Contains(status.Error, "unknown saga unheard-of") || status.Next.UTC().Format(time.RFC3339) != "2026-05-04T13:00:00Z" {
		t.Errorf("%+v, %v", status, err)
	}
	if n, next, err := s.Engine.RunSchedules(t.Context()); n != 0 || err != nil || next <= 0 || next > 5*time.Second {
		t.Errorf("%d, %v, %v, want another try in 5 s", n, next, err)
	}
	if _, err := s.Engine.Pool().Exec(t.Context(), `INSERT INTO pgsagaz.definition (name, version, graph) SELECT 'unheard-of', 1, graph FROM pgsagaz.definition`); err != nil {
		t.Fatal(err)
	}
	s.Advance(6 * time.Second)
	if n, _, err := s.Engine.RunSchedules(t.Context()); n != 1 || err != nil {
		t.Errorf("%d, %v, want the slot that failed", n, err)
	}
	if status, err = s.Engine.GetSchedule(t.Context(), "a"); err != nil || status.Error != "" {
		t.Errorf("%+v, %v", status, err)
	}
}

// What makes no sense is refused, in words that name it.
func TestScheduleRefuses(t *testing.T) {
	t.Parallel()
	s := newTimetable(t, "2026-05-04T12:00:30Z")
	for want, p := range map[string]pgengine.Schedule{
		"the name":               {Cron: "0 * * * *"},
		`"0 * * *"`:              {Name: "x", Cron: "0 * * *"},
		`cron expression ""`:     {Name: "x"},
		`"61 * * * *"`:           {Name: "x", Cron: "61 * * * *"},
		"has no slots":           {Name: "x", Cron: "@every 1h"},
		"no such time will come": {Name: "x", Cron: "0 0 30 2 *"},
		"time zone beside it":    {Name: "x", Cron: "TZ=UTC 0 0 * * *"},
		`"Mars/Olympus"`:         {Name: "x", Cron: "0 0 * * *", Zone: "Mars/Olympus"},
		"on each machine":        {Name: "x", Cron: "0 0 * * *", Zone: "Local"},
		"CatchUp":                {Name: "x", Cron: "0 0 * * *", CatchUp: "maybe"},
		"Grace":                  {Name: "x", Cron: "0 0 * * *", Grace: -1},
		"Most":                   {Name: "x", Cron: "0 0 * * *", Most: 1001},
	} {
		err := pgx.BeginFunc(t.Context(), s.Engine.Pool(), func(tx pgx.Tx) error { return s.Engine.Schedule(t.Context(), tx, report{}, p) })
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want an error that says %s", p, err, want)
		}
	}
	for want, input := range map[string]string{"no object": `[1]`, "does not fit": `{"of": 7}`, "not JSON": `{`} {
		err := pgx.BeginFunc(t.Context(), s.Engine.Pool(), func(tx pgx.Tx) error {
			return s.Engine.ScheduleJSON(t.Context(), tx, "report", json.RawMessage(input), pgengine.Schedule{Name: "x", Cron: "0 0 * * *", SlotField: "at"})
		})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("input %s: %v, want an error that says %s", input, err, want)
		}
	}
	for name, f := range map[string]func(context.Context, pgx.Tx, string, pgengine.By) error{
		"unschedule": s.Engine.Unschedule, "pause": s.Engine.PauseSchedule, "resume": s.Engine.ResumeSchedule,
	} {
		if err := pgx.BeginFunc(t.Context(), s.Engine.Pool(), func(tx pgx.Tx) error { return f(t.Context(), tx, "x", pgengine.By{}) }); !errors.Is(err, pgengine.ErrNoSchedule) {
			t.Errorf("%s: %v, want ErrNoSchedule", name, err)
		}
	}
	if _, err := s.Engine.GetSchedule(t.Context(), "x"); !errors.Is(err, pgengine.ErrNoSchedule) {
		t.Errorf("%v, want ErrNoSchedule", err)
	}
}
