package pgengine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/sql"
)

// CatchUp says what becomes of slots that were missed, since no worker was there.
type CatchUp string

// What may become of them.
const (
	CatchUpSkip CatchUp = "skip" // they are left out; the default
	CatchUpOnce CatchUp = "once" // one saga is started, for the latest of them, unless one is on time
	CatchUpAll  CatchUp = "all"  // each has its saga, the oldest first; see Most
)

// Schedule says when sagas are started by the clock. Each slot, which is a time that Cron names, starts one saga,
// whichever worker comes first, and however many there are.
type Schedule struct {
	Name string // its own; letters, digits and _ . - /
	// Cron is an expression of five fields (minute, hour, day of the month, month, day of the week), or six with the
	// second in front, or @daily and the like. Where both days are restricted, either will do, as in crontab(5). L, W
	// and # are known.
	Cron string
	// Zone is the time zone of Cron, as the IANA names it, such as "Europe/Berlin"; "": UTC. Where its clock is put
	// forward or back: hours that begin with a * go by what the clock shows, so that every quarter of an hour
	// stays that; any others are times that come once a day, at the moment of the change if the clock leaves them out, and
	// the first time if it shows them twice.
	Zone string
	// CatchUp is for slots that were missed; "": [CatchUpSkip].
	CatchUp CatchUp
	// Grace is how late a slot may be and still be on time, so that nothing is missed while workers are replaced.
	// 0: 1 min.
	Grace time.Duration
	// Most is how many sagas are started at most when they are late: those of the latest slots. 0: 100; at most 1000.
	Most int
	// SlotField names a field of the input that is set to the slot's time, as RFC 3339 has it. "": none.
	SlotField string
	Tags      []string      // of its sagas, beside "schedule:NAME"
	Timeout   time.Duration // of each saga; 0: the definition's
	By        By            // who adds or changes it, for the audit
}

const (
	defaultGrace = time.Minute
	defaultMost  = 100
	maxMost      = 1000
)

// ErrNoSchedule: there is no schedule of this name.
var ErrNoSchedule = errors.New("pgsagaz: no such schedule")

// ScheduleStatus is a schedule as it stands.
type ScheduleStatus struct {
	Name      string          `json:"name"`
	Cron      string          `json:"cron"`
	Zone      string          `json:"zone"`
	Saga      string          `json:"saga"`
	Input     json.RawMessage `json:"input"`
	SlotField string          `json:"slot_field,omitempty"`
	Tags      []string        `json:"tags"`
	Timeout   time.Duration   `json:"timeout,omitempty"` // in nanoseconds
	CatchUp   CatchUp         `json:"catch_up"`
	Most      int             `json:"most"`
	Grace     time.Duration   `json:"grace"`            // in nanoseconds
	Next      *time.Time      `json:"next,omitempty"`   // the slot that comes next; nil: none ever will
	Paused    *time.Time      `json:"paused,omitempty"` // since when; nil: it is not
	Last      *time.Time      `json:"last,omitempty"`   // the slot of the saga that was started last
	LastSaga  string          `json:"last_saga,omitempty"`
	Error     string          `json:"error,omitempty"` // of the last try, if that failed: it is tried again
	CreatedAt time.Time       `json:"created_at"`
}

// Coming are the next n slots after t, as they will be if nothing changes.
func (s ScheduleStatus) Coming(t time.Time, n int) ([]time.Time, error) {
	c, err := newCronClock(s.Cron, s.Zone)
	if err != nil {
		return nil, fmt.Errorf("schedule %s: %w", s.Name, err)
	}
	var slots []time.Time
	for t = c.next(t); len(slots) < n && !t.IsZero(); t = c.next(t) {
		slots = append(slots, t)
	}
	return slots, nil
}

// Schedule has sagas with the input in started by the clock, from the commit of the caller's transaction on. A schedule of this
// name is changed: its Cron and Zone count from then on, what it has started stays, and if it is paused it stays so.
// The same one again changes nothing, so that every process may say it as it starts. What it changes stands in the audit.
func (e *Engine) Schedule(ctx context.Context, tx pgx.Tx, in Input, s Schedule) error {
	name, err := inputName(in)
	if err != nil {
		return fmt.Errorf("schedule %s: %w", s.Name, err)
	}
	raw, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("schedule %s: the input does not marshal: %w", s.Name, err)
	}
	return e.ScheduleJSON(ctx, tx, name, raw, s)
}

// ScheduleJSON is [Engine.Schedule] by name, for tools. If this engine has the saga's code, an input that does not fit its
// type is refused.
func (e *Engine) ScheduleJSON(ctx context.Context, tx pgx.Tx, saga string, input json.RawMessage, s Schedule) error {
	if err := e.schedule(ctx, tx, saga, input, s); err != nil {
		return fmt.Errorf("schedule %s: %w", s.Name, err)
	}
	return nil
}

func (e *Engine) schedule(ctx context.Context, tx pgx.Tx, saga string, input json.RawMessage, s Schedule) error {
	if err := s.check(); err != nil {
		return err
	}
	clock, err := newCronClock(s.Cron, s.Zone)
	if err != nil {
		return err
	}
	var now time.Time
	if err := tx.QueryRow(ctx, sql.ScheduleNow, s.Name).Scan(&now); err != nil {
		return err
	}
	next := clock.next(now)
	if next.IsZero() {
		return fmt.Errorf("cron expression %q: no such time will come", s.Cron)
	}
	filled, err := fillSlot(input, s.SlotField, next)
	if err != nil {
		return err
	}
	if g := e.latest[saga]; g != nil {
		if err := g.decodable(filled); err != nil {
			return fmt.Errorf("the input does not fit saga %s: %w", saga, err)
		}
	}
	if len(filled) > e.maxPayload {
		return fmt.Errorf("%w: input of %d bytes, the limit is %d", ErrTooLarge, len(filled), e.maxPayload)
	}
	if s.Tags == nil {
		s.Tags = []string{}
	}
	var timeout *time.Duration
	if s.Timeout > 0 {
		timeout = &s.Timeout
	}
	_, err = tx.Exec(ctx, sql.SchedulePut, s.Name, s.Cron, s.Zone, saga, string(input), optional(s.SlotField), s.Tags, timeout,
		string(s.CatchUp), s.Most, s.Grace, next, s.By.Actor, s.By.Reason)
	return err
}

// check refuses what makes no sense, and fills in the defaults.
func (s *Schedule) check() error {
	if s.Zone == "" {
		s.Zone = "UTC"
	}
	if s.CatchUp == "" {
		s.CatchUp = CatchUpSkip
	}
	if s.Grace == 0 {
		s.Grace = defaultGrace
	}
	if s.Most == 0 {
		s.Most = defaultMost
	}
	switch {
	case !ownNameRule.MatchString(s.Name):
		return fmt.Errorf("the name %q must match %s", s.Name, ownNameRule)
	case s.CatchUp != CatchUpSkip && s.CatchUp != CatchUpOnce && s.CatchUp != CatchUpAll:
		return fmt.Errorf("CatchUp is %q; there are %s, %s and %s", string(s.CatchUp), CatchUpSkip, CatchUpOnce, CatchUpAll)
	case s.Grace < 0 || s.Timeout < 0:
		return errors.New("its Grace and Timeout must not be negative")
	case s.Most < 0 || s.Most > maxMost:
		return fmt.Errorf("its Most is %d, it must be between 1 and %d", s.Most, maxMost)
	}
	return nil
}

// fillSlot sets the field of an input to a slot.
func fillSlot(input json.RawMessage, field string, slot time.Time) (json.RawMessage, error) {
	if !json.Valid(input) {
		return nil, errors.New("the input is not JSON")
	}
	if field == "" {
		return input, nil
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(input, &fields); err != nil || fields == nil {
		return nil, fmt.Errorf("SlotField: the input is no object that could have a field %q", field)
	}
	fields[field], _ = json.Marshal(slot.UTC().Format(time.RFC3339))
	return json.Marshal(fields)
}

// Unschedule removes a schedule. Sagas that it has started go on. [ErrNoSchedule]: there is none.
func (e *Engine) Unschedule(ctx context.Context, tx pgx.Tx, name string, by By) error {
	tag, err := tx.Exec(ctx, sql.ScheduleDelete, name, by.Actor, by.Reason)
	return scheduled(name, tag.RowsAffected() > 0, err)
}

// PauseSchedule has a schedule start nothing until [Engine.ResumeSchedule]. [ErrNoSchedule]: there is none.
func (e *Engine) PauseSchedule(ctx context.Context, tx pgx.Tx, name string, by By) error {
	tag, err := tx.Exec(ctx, sql.SchedulePause, name, by.Actor, by.Reason)
	return scheduled(name, tag.RowsAffected() > 0, err)
}

// ResumeSchedule has a paused schedule go on, with the slots that are yet to come: those of the pause were not missed. One
// that is not paused stays as it is. [ErrNoSchedule]: there is none.
func (e *Engine) ResumeSchedule(ctx context.Context, tx pgx.Tx, name string, by By) error {
	var expression, zone string
	var paused bool
	var now time.Time
	err := tx.QueryRow(ctx, sql.ScheduleLock, name).Scan(&expression, &zone, &paused, &now)
	if errors.Is(err, pgx.ErrNoRows) {
		return scheduled(name, false, nil)
	}
	next := now // of one that is not paused nothing is changed
	if err == nil && paused {
		var clock *cronClock
		if clock, err = newCronClock(expression, zone); err == nil {
			next = clock.next(now)
		}
	}
	if err == nil {
		_, err = tx.Exec(ctx, sql.ScheduleResume, name, orNever(next), by.Actor, by.Reason)
	}
	return scheduled(name, true, err)
}

func scheduled(name string, there bool, err error) error {
	if err == nil && !there {
		err = ErrNoSchedule
	}
	if err != nil {
		return fmt.Errorf("schedule %s: %w", name, err)
	}
	return nil
}

// Schedules lists all schedules by name.
func (e *Engine) Schedules(ctx context.Context) ([]ScheduleStatus, error) {
	return e.schedules(ctx, nil)
}

// GetSchedule reads one. [ErrNoSchedule]: there is none.
func (e *Engine) GetSchedule(ctx context.Context, name string) (ScheduleStatus, error) {
	found, err := e.schedules(ctx, &name)
	if err != nil || len(found) == 0 {
		return ScheduleStatus{}, scheduled(name, len(found) > 0, err)
	}
	return found[0], nil
}

func (e *Engine) schedules(ctx context.Context, name *string) ([]ScheduleStatus, error) {
	rows, err := e.pool.Query(ctx, sql.ScheduleList, name)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (ScheduleStatus, error) {
		var s ScheduleStatus
		var input []byte
		err := row.Scan(&s.Name, &s.Cron, &s.Zone, &s.Saga, &input, &s.SlotField, &s.Tags, &s.Timeout, &s.CatchUp, &s.Most, &s.Grace,
			&s.Next, &s.Paused, &s.Last, &s.LastSaga, &s.Error, &s.CreatedAt)
		s.Input = input
		s.Error = strings.TrimSpace(s.Error)
		return s, err
	})
}
