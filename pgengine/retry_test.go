package pgengine

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestDelay(t *testing.T) {
	const ms, s = time.Millisecond, time.Second
	for _, test := range []struct {
		name  string
		retry Retry
		waits []time.Duration // at most, before the second attempt, the third, ...; at least half of it
	}{
		{"default", Retry{}, []time.Duration{200 * ms, 400 * ms, 800 * ms, 1600 * ms, 3200 * ms, 6400 * ms, 12800 * ms, 25600 * ms, 30 * s, 30 * s}},
		{"constant", Retry{Initial: s, Factor: 1}, []time.Duration{s, s, s}},
		{"capped", Retry{Initial: s, Max: 3 * s}, []time.Duration{s, 2 * s, 3 * s, 3 * s}},
		{"slow", Retry{Initial: s, Factor: 1.5}, []time.Duration{s, 1500 * ms, 2250 * ms}},
		{"longer than the default Max", Retry{Initial: time.Hour}, []time.Duration{time.Hour, time.Hour}},
	} {
		for i, most := range test.waits {
			least, longest := most, time.Duration(0)
			for range 200 {
				d := test.retry.delay(i + 1)
				if d < most/2 || d > most {
					t.Fatalf("%s: %v after attempt %d, want %v to %v", test.name, d, i+1, most/2, most)
				}
				least, longest = min(least, d), max(longest, d)
			}
			if longest-least < most/4 { // 200 draws from an even spread over most/2
				t.Errorf("%s: all of 200 waits lie between %v and %v: what failed together comes back together", test.name, least, longest)
			}
		}
	}
}

func TestDelayHoldsItsBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Retry{
			Initial: time.Duration(rapid.Int64Range(0, int64(1000*time.Hour)).Draw(t, "initial")),
			Factor:  rapid.Float64Range(1, 1000).Draw(t, "factor"),
		}
		if rapid.Bool().Draw(t, "has a max") {
			r.Max = max(1, r.Initial) + time.Duration(rapid.Int64Range(0, int64(1000*time.Hour)).Draw(t, "above"))
		}
		if problem := r.check(); problem != "" {
			t.Fatal(problem)
		}
		most := r.Max
		if most == 0 {
			most = max(30*time.Second, r.Initial)
		}
		if d := r.delay(rapid.IntRange(1, 1<<30).Draw(t, "attempt")); d < 0 || d > most {
			t.Fatalf("%+v waits %v, at most %v is right", r, d, most)
		}
	})
}

func TestExhausted(t *testing.T) {
	for _, test := range []struct {
		max, attempt int
		direction    Direction
		want         bool
	}{
		{0, 4, Do, false},
		{0, 5, Do, true}, // the default
		{0, 1 << 30, Undo, false},
		{1, 1, Do, true},
		{1, 1, Undo, true},
		{3, 2, Undo, false},
		{3, 3, Undo, true},
		{3, 4, Do, true}, // the limit was lowered meanwhile
	} {
		if got := (Retry{MaxAttempts: test.max}).exhausted(test.attempt, test.direction == Undo); got != test.want {
			t.Errorf("%s, attempt %d of %d: exhausted %v", test.direction, test.attempt, test.max, got)
		}
	}
}

func TestTerminal(t *testing.T) {
	cause := &net{"refused"}
	err := fmt.Errorf("charge: %w", Terminal(errors.Join(io.EOF, cause)))
	if !errors.Is(err, io.EOF) {
		t.Error("errors.Is does not see through Terminal")
	}
	if got, ok := errors.AsType[*net](err); !ok || got != cause {
		t.Error("errors.As does not see through Terminal")
	}
	if got, ok := errors.AsType[*TerminalError](err); !ok || got.Err.Error() != "EOF\nrefused" {
		t.Errorf("the TerminalError is %v", got)
	}
	if err.Error() != "charge: EOF\nrefused" {
		t.Errorf("%q: Terminal adds no words", err)
	}
	if Terminal(nil) != nil {
		t.Error("Terminal(nil) is an error")
	}
}

type net struct{ what string }

func (n *net) Error() string { return n.what }

func TestRetryable(t *testing.T) {
	notEOF := Retry{If: func(err error) bool { return !errors.Is(err, io.EOF) }}
	for _, test := range []struct {
		retry Retry
		err   error
		want  bool
	}{
		{Retry{}, io.EOF, true},
		{Retry{}, Terminal(io.EOF), false},
		{Retry{}, fmt.Errorf("deep: %w", errors.Join(io.EOF, Terminal(io.ErrNoProgress))), false},
		{notEOF, io.ErrNoProgress, true},
		{notEOF, fmt.Errorf("wrapped: %w", io.EOF), false},
		{Retry{If: func(error) bool { return true }}, Terminal(io.EOF), false}, // If can't overrule it
		{NoRetry, io.EOF, true},                                                // it may go away; that there is no other attempt is not its fault
	} {
		if got := test.retry.retryable(test.err); got != test.want {
			t.Errorf("%v: %v", test.err, got)
		}
	}
}

func TestErrorsTellWhereAndWhy(t *testing.T) {
	err := error(&StepError{Saga: "order", ID: "7", Step: "charge", Direction: Undo, Attempt: 3, Err: Terminal(io.EOF)})
	if got := err.Error(); got != "saga order 7: undo charge, attempt 3: EOF" {
		t.Error(got)
	}
	if !errors.Is(err, io.EOF) {
		t.Error("a StepError hides its cause")
	}
	if got := (&PanicError{Value: "oh"}).Error(); got != "panic: oh" {
		t.Error(got)
	}
}

func TestDescribe(t *testing.T) {
	for in, want := range map[string]string{
		"plain":         "plain",
		"a\x00b\xffc":   "a?b?c",
		"":              "*errors.errorString with an empty message",
		"Zürich ist zu": "Zürich ist zu",
	} {
		if got := describe(errors.New(in)); got != want {
			t.Errorf("%q is described as %q, want %q", in, got, want)
		}
	}
	long := describe(errors.New("x" + strings.Repeat("ü", 5000)))
	if len(long) > 4096+len("…") || !strings.HasSuffix(long, "ü…") {
		t.Errorf("%d bytes that end in %q", len(long), long[len(long)-8:])
	}
}
