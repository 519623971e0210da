package pgengine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

type cart struct {
	ID    string
	Items []string
	Notes map[string]string
}

func (cart) SagaName() string { return "cart" }

func TestKeys(t *testing.T) {
	for _, test := range []struct {
		direction  Direction
		generation int
		key        string
	}{
		{Do, 1, "7/pay"},
		{Undo, 1, "7/pay/undo"},
		{Undo, 2, "7/pay/undo/2"},
		{Undo, 11, "7/pay/undo/11"},
		{Do, 2, "7/pay"}, // whatever came late came with this key
	} {
		for attempt := range 3 {
			c, err := typedCall[cart](&call{
				sagaID: "7", step: "pay", direction: test.direction, generation: test.generation,
				attempt: attempt + 1, input: json.RawMessage(`{}`),
			})
			if err != nil {
				t.Fatal(err)
			}
			if c.Key() != test.key || c.DoKey() != "7/pay" || c.Attempt != attempt+1 {
				t.Errorf("%s, generation %d, attempt %d: key %q, do key %q, want %q", test.direction, test.generation, c.Attempt, c.Key(), c.DoKey(), test.key)
			}
		}
	}
	bare := Call[cart]{SagaID: "7", Step: "pay"} // made by hand
	if bare.Key() != "7/pay" || bare.InDoubt() || bare.Cause() != (Cause{}) {
		t.Errorf("a Call without an engine: %q, %v, %v", bare.Key(), bare.InDoubt(), bare.Cause())
	}
}

// TestResults: which steps' results a step may ask for, and what it is told of the others.
func TestResults(t *testing.T) {
	do := func(context.Context, Call[cart]) (int, error) { return 0, nil }
	first := Activity[cart, int]{Name: "first", Do: do}
	maybe := Activity[cart, int]{Name: "maybe", Optional: true, Do: do}
	side := Activity[cart, int]{Name: "side", Do: do}
	mid := Activity[cart, int]{Name: "mid", After: Steps[cart](first, maybe), Do: do}
	last := Activity[cart, int]{Name: "last", After: Steps[cart](mid), Do: do}
	g, problems := Saga[cart]{Version: 1, Steps: Steps[cart](first, maybe, side, mid, last)}.definition()
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	at := func(step string, results string) Call[cart] {
		c := &call{sagaID: "7", step: step, direction: Do, generation: 1, attempt: 1, input: json.RawMessage(`{}`), g: g}
		if err := json.Unmarshal([]byte(results), &c.results); err != nil {
			t.Fatal(err)
		}
		typed, err := typedCall[cart](c)
		if err != nil {
			t.Fatal(err)
		}
		return typed
	}

	if got := first.Result(at("last", `{"first": 4}`)); got != 4 { // not only of the step right before
		t.Errorf("the result is %d", got)
	}
	if got, ok := maybe.Maybe(at("mid", `{"maybe": 5}`)); got != 5 || !ok {
		t.Errorf("the optional result is %d, %v", got, ok)
	}
	if got, ok := maybe.Maybe(at("mid", `{}`)); got != 0 || ok {
		t.Errorf("a result that is not there is %d, %v", got, ok)
	}
	if got, ok := first.Maybe(at("first", `{"first": 6}`)); got != 6 || !ok { // its own, in an Undo
		t.Errorf("its own result is %d, %v", got, ok)
	}

	for name, test := range map[string]struct {
		ask  func()
		want []string
	}{
		"optional":       {func() { maybe.Result(at("mid", `{"maybe": 5}`)) }, []string{"mid", "maybe", "use Maybe"}},
		"none":           {func() { first.Result(at("mid", `{}`)) }, []string{"mid", "first", "has none"}},
		"beside":         {func() { side.Result(at("last", `{"side": 1}`)) }, []string{"last", "side", "does not come before it"}},
		"beside, maybe":  {func() { side.Maybe(at("last", `{"side": 1}`)) }, []string{"last", "side", "does not come before it"}},
		"after":          {func() { last.Result(at("mid", `{"last": 1}`)) }, []string{"mid", "last", "does not come before it"}},
		"another type":   {func() { first.Result(at("mid", `{"first": "four"}`)) }, []string{"first", "int", "does not fit"}},
		"made by hand":   {func() { first.Result(Call[cart]{}) }, []string{"first", "pgenginetest.Call", `Given("first"`}},
		"by hand, maybe": {func() { maybe.Maybe(Call[cart]{}) }, []string{"maybe", "pgenginetest.Call"}},
	} {
		err := guarded(func() error { test.ask(); return nil })
		if err == nil {
			t.Errorf("%s: no panic", name)
			continue
		}
		if _, ok := errors.AsType[*TerminalError](err); !ok {
			t.Errorf("%s: %T: trying again would not help", name, err)
		}
		for _, want := range test.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q, want %q in it", name, err, want)
			}
		}
	}
}

func TestTheInputIsImmutable(t *testing.T) {
	spoil := Activity[cart, string]{Name: "spoil", Do: func(_ context.Context, c Call[cart]) (string, error) {
		was := fmt.Sprint(c.Input.Items, c.Input.Notes)
		c.Input.Items[0] = "nothing"
		c.Input.Notes["to"] = "nobody"
		return was, nil
	}}
	n := spoil.node()
	shared := &call{sagaID: "7", step: "spoil", direction: Do, attempt: 1, input: json.RawMessage(`{"Items": ["hat"], "Notes": {"to": "Ann"}}`)}
	for range 3 {
		raw, err := n.do(t.Context(), shared)
		if err != nil || string(raw) != `"[hat] map[to:Ann]"` {
			t.Fatalf("a step saw %s, %v", raw, err)
		}
	}
}

func TestWhatDoesNotFit(t *testing.T) {
	odd := Activity[cart, any]{Name: "odd", Do: func(_ context.Context, c Call[cart]) (any, error) {
		if c.Input.ID == "chan" {
			return make(chan int), nil
		}
		return strings.Repeat("x", 100), nil
	}, Undo: func(context.Context, Call[cart], any) error { return nil }}
	n := odd.node()
	try := func(input string, limit int) error {
		_, err := n.do(t.Context(), &call{step: "odd", direction: Do, input: json.RawMessage(input), maxBytes: limit})
		return err
	}
	if err := try(`{"ID": "x"}`, 102); err != nil { // with its quotes
		t.Error(err)
	}
	err := try(`{"ID": "x"}`, 101)
	if !errors.Is(err, ErrTooLarge) || !errors.As(err, new(*resultError)) || !strings.Contains(err.Error(), "102 bytes, the limit is 101") {
		t.Errorf("too large: %v", err)
	}
	if !mayHaveHappened(&n, err) {
		t.Error("a result that can't be kept is no proof that nothing happened")
	}
	if err = try(`{"ID": "chan"}`, 0); !errors.As(err, new(*resultError)) || !strings.Contains(err.Error(), "chan int does not marshal") {
		t.Errorf("a channel: %v", err)
	}
	if err = try(`{"ID": 5}`, 0); !errors.As(err, new(*TerminalError)) || !strings.Contains(err.Error(), "does not fit pgengine.cart") {
		t.Errorf("an input of another shape: %v", err)
	}

	typed := Activity[cart, int]{Name: "typed", Do: nil, Undo: func(context.Context, Call[cart], int) error { return nil }}
	err = typed.node().undo(t.Context(), &call{step: "typed", direction: Undo, input: json.RawMessage(`{}`)}, json.RawMessage(`"four"`))
	if !errors.As(err, new(*TerminalError)) || !strings.Contains(err.Error(), "result of typed does not fit int") {
		t.Errorf("a result of another shape: %v", err)
	}
}

func TestCauseTellsItself(t *testing.T) {
	for want, c := range map[string]Cause{
		"step pay failed: no money": {Kind: CauseStep, Step: "pay", Error: "no money"},
		"cancelled: rain":           {Kind: CauseCancel, Reason: "rain"},
		"the deadline passed":       {Kind: CauseDeadline},
		"":                          {},
	} {
		if c.String() != want {
			t.Errorf("%+v says %q, want %q", c, c, want)
		}
	}
}

func TestNewTestCall(t *testing.T) {
	c, err := NewTestCall(cart{ID: "c"}, TestCall{SagaID: "7", Step: "pay", Results: map[string]any{"first": 4}})
	if err != nil || c.Key() != "7/pay" || c.Attempt != 1 || c.Input.ID != "c" || c.InDoubt() {
		t.Errorf("%+v, %v", c, err)
	}
	if got := (Activity[cart, int]{Name: "first"}).Result(c); got != 4 {
		t.Errorf("the given result is %d", got)
	}
	c, err = NewTestCall(cart{}, TestCall{SagaID: "7", Step: "pay", Direction: Undo, Generation: 2, Attempt: 3, InDoubt: true})
	if err != nil || c.Key() != "7/pay/undo/2" || c.Attempt != 3 || !c.InDoubt() {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err = NewTestCall(cart{}, TestCall{Results: map[string]any{"first": func() {}}}); err == nil || !strings.Contains(err.Error(), "first") {
		t.Errorf("a result that does not marshal: %v", err)
	}
	if _, err = NewTestCall(unmarshalable{}, TestCall{}); err == nil || !strings.Contains(err.Error(), "the input does not marshal") {
		t.Errorf("an input that does not marshal: %v", err)
	}
}

type unmarshalable struct{ C chan int }

func (unmarshalable) SagaName() string { return "unmarshalable" }
