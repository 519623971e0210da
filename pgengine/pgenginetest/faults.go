package pgenginetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// Case is a saga to be tried with every fault.
type Case struct {
	Saga    pgengine.Definition
	Input   pgengine.Input
	Others  []pgengine.Definition // the sagas that it starts as children; faults are not put into them
	Signals []pgengine.Signal     // sent one by one as it awaits something; what it awaits beyond them times out

	// Verify looks for what is wrong when the saga has ended, or is stuck: that no card was charged twice, say.
	// nil: what Faults looks at by itself is enough.
	Verify func(ctx context.Context, pool *pgxpool.Pool, end pgengine.Status) error
	// Grows names tables ("schema.table") that keep rows of a saga that was compensated, such as a ledger with
	// its reversals. All other tables must then be as they were before the saga.
	Grows []string
}

// Setup makes a case on a migrated database of its own: tables, rows, and fakes of what is outside. It is called
// anew for each fault.
type Setup func(t testing.TB, pool *pgxpool.Pool) Case

// Fault is one thing that goes wrong.
type Fault struct {
	Step, Function string // of which step; see [pgengine.Point]
	Kind           Kind
	After          *Fault // what went wrong before, so that it came to this; nil: nothing
}

// Kind is how a call goes wrong.
type Kind string

// The kinds there are.
const (
	FailsOnce   Kind = "fails once"                            // before it has any effect
	Fails       Kind = "fails for good"                        // with a Terminal error, before it has any effect
	Panics      Kind = "panics once"                           // before it has any effect
	LostOnce    Kind = "has its effect and the answer is lost" // the next try answers
	Lost        Kind = "has its effect and never answers"      // whatever is tried
	CrashBefore Kind = "is not reached: the worker dies"       // after the commit before it
	CrashAfter  Kind = "has its effect and the worker dies"    // before its commit
	Cancelled   Kind = "is overtaken by a cancel"
)

func (f Fault) String() string {
	s := fmt.Sprintf("%s.%s %s", f.Step, f.Function, f.Kind)
	if f.After != nil {
		s += ", after " + f.After.String()
	}
	return s
}

var (
	forwardFaults = []Kind{FailsOnce, Fails, Panics, LostOnce, Lost, CrashBefore, CrashAfter, Cancelled}
	undoFaults    = []Kind{FailsOnce, Fails, Panics, LostOnce, CrashBefore, CrashAfter}
)

// Faults runs a saga with every fault there is, each in a test of its own: every step fails, panics, loses its
// answer, dies before and after its effect, is overtaken by a cancel; and so does every undo and every
// Lookup that a failure leads to. It reports an end that is neither completed nor compensated nor stuck at the
// step that was made to fail; a compensated saga that has left something behind in the database; a
// completed one that has left more or less than it does undisturbed; and whatever Verify finds. A sleep
// takes no time: see [Sandbox].
func Faults(t *testing.T, setup Setup) {
	for _, f := range Matrix(t, setup) {
		t.Run(f.String(), func(t *testing.T) {
			t.Parallel()
			if err := Try(t, setup, f); err != nil {
				t.Error(err)
			}
		})
	}
}

// Matrix lists all the faults of a saga: it runs the saga undisturbed, and with each step failing, and
// notes which functions are called.
func Matrix(t testing.TB, setup Setup) []Fault {
	t.Helper()
	clean := newTrial(t, setup, nil)
	if clean.drive(); len(clean.points) == 0 {
		t.Fatalf("pgenginetest: the saga calls nothing: %s", story(clean.end))
	}
	var faults []Fault
	seen := map[point]bool{}
	for _, p := range clean.points {
		seen[p] = true
		for _, k := range forwardFaults {
			faults = append(faults, Fault{Step: p.step, Function: p.function, Kind: k})
		}
	}
	// What only a failure leads to: undos, lookups, a Recover.
	for _, p := range slices.Backward(clean.points) { // the later it fails, the more is undone
		for _, k := range []Kind{Fails, Lost} {
			first := Fault{Step: p.step, Function: p.function, Kind: k}
			turned := newTrial(t, setup, &first)
			turned.drive()
			for _, q := range turned.points {
				if seen[q] {
					continue
				}
				seen[q] = true
				for _, k := range undoFaults {
					faults = append(faults, Fault{Step: q.step, Function: q.function, Kind: k, After: &first})
				}
			}
		}
	}
	return faults
}

// Try runs a saga with one fault, and says what is wrong with how it ended.
func Try(t testing.TB, setup Setup, f Fault) error {
	t.Helper()
	clean, tried := newTrial(t, setup, nil), newTrial(t, setup, &f)
	clean.drive()
	tried.drive()
	if err := tried.verify(clean); err != nil {
		return fmt.Errorf("%w\nwhere %s\n%s", err, f, story(tried.end))
	}
	return nil
}

// point is where a fault may be.
type point struct{ step, function string }

// trial is one run of the saga with at most one fault, and the one that leads to it.
type trial struct {
	t             testing.TB
	pool          *pgxpool.Pool
	c             Case
	sandbox       *Sandbox
	faults        []*Fault
	struck        map[*Fault]int // how often a fault has struck
	points        []point        // that were reached, in order
	before, after tables
	end           pgengine.Status
}

func newTrial(t testing.TB, setup Setup, f *Fault) *trial {
	t.Helper()
	r := &trial{t: t, pool: sqltest.New(t), struck: map[*Fault]int{}}
	for ; f != nil; f = f.After {
		r.faults = append(r.faults, f)
	}
	r.c = setup(t, r.pool)
	r.before = readTables(t, r.pool)
	r.sandbox = NewSandbox(t, r.pool, append([]pgengine.Definition{pgengine.Inject(r.c.Saga, r.hook)}, r.c.Others...)...)
	return r
}

// hook makes the calls fail.
func (r *trial) hook(p pgengine.Point) error {
	at := point{p.Step, p.Function}
	if !p.After && !slices.Contains(r.points, at) {
		r.points = append(r.points, at)
	}
	for _, f := range r.faults {
		if f.Step == p.Step && f.Function == p.Function {
			if err := r.strike(f, p); err != nil {
				return err
			}
		}
	}
	return nil
}

var errFault = errors.New("made to fail")

func (r *trial) strike(f *Fault, p pgengine.Point) error {
	times := r.struck[f]
	strikes := func(after bool) bool {
		if p.After != after {
			return false
		}
		r.struck[f]++
		return true
	}
	switch {
	case f.Kind == Fails && strikes(false):
		return pgengine.Terminal(errFault)
	case f.Kind == Lost && times == 0 && strikes(true), f.Kind == Lost && times > 0 && strikes(false):
		return errFault
	case times > 0:
	case f.Kind == FailsOnce && strikes(false), f.Kind == LostOnce && strikes(true):
		return errFault
	case f.Kind == Panics && strikes(false):
		panic(errFault)
	case f.Kind == CrashBefore && strikes(false), f.Kind == CrashAfter && strikes(true):
		r.sandbox.Crash()
	case f.Kind == Cancelled && strikes(false):
		return pgx.BeginFunc(context.Background(), r.pool, func(tx pgx.Tx) error {
			return r.sandbox.Engine.Cancel(context.Background(), tx, p.SagaID, pgengine.By{Reason: "a test says so"})
		})
	}
	return nil
}

// drive runs the saga to its end.
func (r *trial) drive() {
	r.t.Helper()
	id := r.sandbox.Start(r.c.Input)
	signals := r.c.Signals
	for range sandboxJobs {
		r.sandbox.Settle()
		r.end = r.sandbox.Get(id)
		if len(signals) > 0 && awaits(r.end) {
			r.sandbox.Tx(func(tx pgx.Tx) error {
				return r.sandbox.Engine.Signal(r.t.Context(), tx, pgengine.ID(id), signals[0])
			})
			signals = signals[1:]
			continue
		}
		if !r.sandbox.forward() {
			r.after = readTables(r.t, r.pool)
			return
		}
	}
	r.t.Fatalf("pgenginetest: it does not end\n%s", story(r.end))
}

func awaits(s pgengine.Status) bool {
	return slices.ContainsFunc(s.Steps, func(s pgengine.StepStatus) bool { return s.State == "awaiting" })
}

// verify says what is wrong with the end of the trial, given how the saga ends undisturbed.
func (r *trial) verify(clean *trial) error {
	ctx := r.t.Context()
	for _, f := range r.faults {
		if r.struck[f] == 0 {
			return fmt.Errorf("the saga never came to where %s", f)
		}
	}
	switch r.end.State {
	case pgengine.Completed:
		if slices.Equal(outcomes(r.end), outcomes(clean.end)) {
			if err := r.after.asMany(clean.after); err != nil {
				return fmt.Errorf("the saga did the same steps as undisturbed, and left other rows: %w", err)
			}
		}
	case pgengine.Compensated:
		if err := r.after.same(r.before, r.c.Grows); err != nil {
			return fmt.Errorf("the saga was compensated, and has left something behind: %w", err)
		}
	case pgengine.Stuck:
		if !slices.ContainsFunc(r.end.Steps, func(s pgengine.StepStatus) bool { return s.State == "stuck" && s.Step == r.faults[0].Step }) {
			return errors.New("the saga is stuck, and not at the step that was made to fail")
		}
	default:
		return fmt.Errorf("the saga is %s, and nothing will move it", r.end.State)
	}
	violations, err := sql.Check(ctx, r.pool)
	if err != nil {
		return err
	}
	if len(violations) > 0 {
		return fmt.Errorf("an invariant is broken: %v", violations[0])
	}
	if r.c.Verify != nil {
		return r.c.Verify(ctx, r.pool, r.end)
	}
	return nil
}

// outcomes are the steps' own, in no order of time.
func outcomes(s pgengine.Status) (list []string) {
	for _, step := range s.Steps {
		list = append(list, strings.Join([]string{step.Step, string(step.Direction), step.State}, " "))
	}
	slices.Sort(list)
	return list
}
