package pgengine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/pgengine/pgenginetest"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// secret is what no table and no log may show.
const secret = "Rumpelstiltskin"

// letter is an input that says whose it is.
type letter struct {
	Of   string
	Text string
	Mode string // "": it goes well; fail: the last step fails
}

func (letter) SagaName() string  { return "letter" }
func (l letter) Subject() string { return l.Of }

// copied is the child's.
type copied struct{ Text string }

func (copied) SagaName() string { return "copy" }

type consent struct{ Text string }

func (consent) SagaName() string   { return "letter" }
func (consent) SignalName() string { return "consent" }

type letterCall = pgengine.Call[letter]

// letters is a saga whose every payload has the secret: input, results of all kinds, a signal, children, messages.
//
//	write ─ post (fails once) ─ agreed ┬ copy ┬ last
//	                                   └ many ┘
func letters(undone *[]string) []pgengine.Definition {
	write := pgengine.TxStep[letter, string]{
		Name: "write",
		Do: func(ctx context.Context, tx pgx.Tx, c letterCall) (string, error) {
			return "wrote " + c.Input.Text, outbox.Publish(ctx, tx, outbox.JSON("letters", "", c.Input))
		},
		Undo: func(ctx context.Context, tx pgx.Tx, c letterCall, r string) error {
			*undone = append(*undone, r)
			return outbox.Publish(ctx, tx, outbox.JSON("letters", "", r), outbox.JSON("letters", "", c.Input))
		},
	}
	post := pgengine.Activity[letter, letter]{
		Name: "post", After: pgengine.Steps(write), Retry: pgengine.Retry{MaxAttempts: 2, Initial: time.Millisecond},
		Do: func(_ context.Context, c letterCall) (letter, error) {
			if c.Attempt == 1 {
				return letter{}, errors.New("the letter box is full")
			}
			return letter{Text: write.Result(c)}, nil
		},
		Commit: func(ctx context.Context, tx pgx.Tx, c letterCall, r letter) error {
			m := outbox.JSON("letters", "", r)
			m.NotBefore = time.Now().Add(time.Hour)
			return outbox.Publish(ctx, tx, m)
		},
		Undo: func(_ context.Context, _ letterCall, r letter) error {
			*undone = append(*undone, r.Text)
			return nil
		},
	}
	agreed := pgengine.Await[letter, consent]{Name: "agreed", After: pgengine.Steps[letter](post)}
	once := pgengine.Child[letter, copied, copied]{
		Name: "copy", After: pgengine.Steps[letter](agreed),
		Input: func(_ context.Context, c letterCall) (copied, error) { return copied{agreed.Result(c).Text}, nil },
	}
	many := pgengine.Each[letter, copied, copied]{
		Name: "many", After: pgengine.Steps[letter](agreed),
		Inputs: func(_ context.Context, c letterCall) ([]copied, error) {
			return []copied{{c.Input.Text}, {"2 " + c.Input.Text}}, nil
		},
	}
	last := pgengine.TxStep[letter, string]{
		Name: "last", After: pgengine.Steps[letter](once, many), Retry: pgengine.NoRetry,
		Do: func(_ context.Context, _ pgx.Tx, c letterCall) (string, error) {
			if c.Input.Mode == "fail" {
				return "", errors.New("no stamps left")
			}
			return fmt.Sprint(once.Result(c).Text, many.Result(c)), nil
		},
	}
	again := pgengine.TxStep[copied, copied]{
		Name: "again", Do: func(_ context.Context, _ pgx.Tx, c pgengine.Call[copied]) (copied, error) { return c.Input, nil },
		Undo: func(_ context.Context, _ pgx.Tx, _ pgengine.Call[copied], r copied) error {
			*undone = append(*undone, r.Text)
			return nil
		},
	}
	return []pgengine.Definition{
		pgengine.Saga[letter]{Version: 1, Output: last, Steps: pgengine.Steps[letter](write, post, agreed, once, many, last)},
		pgengine.Saga[copied]{Version: 1, Output: again, Steps: pgengine.Steps[copied](again)},
	}
}

// desk is a sandbox with a codec, and all that it logs.
type desk struct {
	*pgenginetest.Sandbox
	t      *testing.T
	pool   *pgxpool.Pool
	key    string
	log    *lockedText
	undone *[]string
}

type lockedText struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	t.Parallel()
	key, err := codec.NewKey("k1")
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{t: t, pool: sqltest.New(t), key: key, log: &lockedText{}, undone: &[]string{}}
	d.Sandbox = pgenginetest.NewSandbox(t, d.pool, letters(d.undone)...)
	d.restart(d.codec(key))
	return d
}

// codec is that of a process with these keys, which forgets data keys at once.
func (d *desk) codec(keys ...string) *codec.Codec {
	d.t.Helper()
	ring, err := codec.ParseKeys(strings.Join(keys, ","))
	if err != nil {
		d.t.Fatal(err)
	}
	c, err := codec.New(codec.Config{Keyring: ring, Compress: true, KeepKeys: time.Nanosecond})
	if err != nil {
		d.t.Fatal(err)
	}
	return c
}

// restart goes on with a process that has another codec.
func (d *desk) restart(c *codec.Codec) {
	d.t.Helper()
	e, err := pgengine.New(d.pool, pgengine.Config{
		Sagas: letters(d.undone), Codec: c, NoWake: true,
		Logger: slog.New(slog.NewTextHandler(d.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		d.t.Fatal(err)
	}
	d.Engine = e
}

// agree sends the signal.
func (d *desk) agree(id string) {
	d.t.Helper()
	d.Tx(func(tx pgx.Tx) error {
		return d.Engine.Signal(d.t.Context(), tx, pgengine.ID(id), consent{"agreed, " + secret})
	})
}

func (d *desk) erase(subject string, force bool) (e codec.Erasure, err error) {
	err = pgx.BeginFunc(d.t.Context(), d.pool, func(tx pgx.Tx) error {
		e, err = codec.Erase(d.t.Context(), tx, subject, codec.EraseOptions{By: "dpo", Reason: "asked", Force: force})
		return err
	})
	return e, err
}

// hidden fails if the secret can be found in the database or in the log.
func (d *desk) hidden(when string) {
	d.t.Helper()
	for place, text := range map[string]string{"database": sqltest.Dump(d.t, d.pool), "log": d.log.String()} {
		if i := strings.Index(text, secret); i >= 0 {
			d.t.Errorf("%s: the %s shows the secret: ...%q", when, place, text[max(0, i-300):i+len(secret)])
		}
	}
}

// reads counts the secrets that a status shows.
func (d *desk) reads(id string) int {
	d.t.Helper()
	raw, err := json.Marshal(d.Get(id))
	if err != nil {
		d.t.Fatal(err)
	}
	return strings.Count(string(raw), secret)
}

// archive moves what has ended into the archive.
func (d *desk) archive() {
	d.t.Helper()
	d.Advance(2 * time.Hour)
	if (play{Sandbox: d.Sandbox, t: d.t}).archive() == 0 {
		d.t.Fatal("nothing was archived")
	}
}

// TestPayloadsAreHidden: with a codec no payload is seen in any table or log, on a way that goes well and on one back, live
// and archived; and the steps see all of them.
func TestPayloadsAreHidden(t *testing.T) {
	d := newDesk(t)
	for _, mode := range []string{"", "fail"} {
		id := d.Start(letter{Of: "customer-1", Text: "dear " + secret, Mode: mode})
		d.hidden("started")
		d.agree(id)
		d.hidden("signalled")
		d.Run()
		s := d.Get(id)
		switch {
		case mode == "" && (s.State != pgengine.Completed || string(s.Output) != `"agreed, `+secret+`[{dear `+secret+`} {2 dear `+secret+`}]"`):
			t.Fatalf("%s, %s, %v", s.State, s.Output, s.Cause)
		case mode == "fail" && (s.State != pgengine.Compensated || len(*d.undone) != 5):
			t.Fatalf("%s after undoing %q, %v", s.State, *d.undone, s.Cause)
		}
		for _, u := range *d.undone {
			if !strings.Contains(u, secret) {
				t.Errorf("an undo was given %q", u)
			}
		}
		before := d.reads(id)
		if before < 6 {
			t.Errorf("the status shows %d payloads", before)
		}
		d.hidden("ended")
		d.archive()
		d.hidden("archived")
		if n := d.reads(id); n != before || !d.Get(id).Archived {
			t.Errorf("archived, the status shows %d payloads, and %d before", n, before)
		}
	}
	if !strings.Contains(d.log.String(), "the letter box is full") {
		t.Error("the log does not have what the step itself said")
	}
	// What was written under one key-encryption key is read under another.
	two, err := codec.NewKey("k2")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := d.codec(two, d.key).Rotate(t.Context(), d.pool, codec.By{}); err != nil || n != 1 {
		t.Fatalf("%d keys rotated, %v", n, err)
	}
	d.restart(d.codec(two))
	sagas := 0
	for s, err := range d.Engine.List(t.Context(), pgengine.Filter{Archived: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if d.reads(s.ID) == 0 {
			t.Errorf("saga %s %s is not read after the rotation", s.Name, s.ID)
		}
		sagas++
	}
	if sagas != 8 {
		t.Errorf("%d sagas are archived, want 8", sagas)
	}
}

func TestErasedPayloads(t *testing.T) {
	d := newDesk(t)
	var ids []string
	for _, of := range []string{"customer-1", "customer-1", "customer-2"} {
		id := d.Start(letter{Of: of, Text: "dear " + secret})
		d.agree(id)
		d.Run()
		if len(ids) == 0 {
			d.archive()
		}
		ids = append(ids, id)
	}
	if _, err := d.erase("customer-1", false); !errors.Is(err, codec.ErrInUse) || !strings.Contains(err.Error(), "messages") {
		t.Errorf("messages wait, and: %v", err) // no relay runs here
	}
	if _, err := d.erase("customer-1", true); err != nil {
		t.Fatal(err)
	}
	d.hidden("erased")
	for i, id := range ids[:2] {
		s := d.Get(id)
		raw, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(raw), secret) || string(s.Input) != `{"pgsagaz":"erased"}` || string(s.Output) != `{"pgsagaz":"erased"}` {
			t.Errorf("saga %d shows %s", i, raw)
		}
		if s.State != pgengine.Completed || len(s.Steps) != 6 || s.Archived != (i == 0) {
			t.Errorf("saga %d: %+v", i, s)
		}
	}
	if d.reads(ids[2]) == 0 {
		t.Error("another subject's saga is erased, too")
	}
	found := 0
	k, err := codec.Find(t.Context(), d.pool, "customer-1")
	if err != nil || k.ErasedBy != "dpo" {
		t.Fatalf("%+v, %v", k, err)
	}
	for s, err := range d.Engine.OfKey(t.Context(), k.Key) {
		if err != nil || s.Name != "letter" && s.Name != "copy" {
			t.Errorf("%s, %v", s.Name, err)
		}
		found++
	}
	if found != 8 {
		t.Errorf("%d sagas are under the key, want 8", found)
	}
	err = pgx.BeginFunc(t.Context(), d.pool, func(tx pgx.Tx) error {
		_, err := d.Engine.Start(t.Context(), tx, letter{Of: "customer-1"}, nil)
		return err
	})
	if !errors.Is(err, codec.ErrErased) {
		t.Errorf("a new saga of the subject: %v, want ErrErased", err)
	}
}

// A start that has the key in memory does not slip past an erasure.
func TestNoSagaStartsAfterAnErasure(t *testing.T) {
	d := newDesk(t)
	ring, err := codec.ParseKeys(d.key)
	if err != nil {
		t.Fatal(err)
	}
	keeps, err := codec.New(codec.Config{Keyring: ring, KeepKeys: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	d.restart(keeps)
	for range 2 { // the second finds the key that the first has made
		id := d.Start(letter{Of: "customer-1"})
		d.agree(id)
		d.Run()
	}
	if _, err := d.erase("customer-1", true); err != nil {
		t.Fatal(err)
	}
	err = pgx.BeginFunc(t.Context(), d.pool, func(tx pgx.Tx) error {
		_, err := d.Engine.Start(t.Context(), tx, letter{Of: "customer-1"}, nil)
		return err
	})
	if !errors.Is(err, codec.ErrErased) {
		t.Errorf("%v, want ErrErased", err)
	}
}

// A saga that runs when its subject is erased is stuck with the next thing it has to do, and says why.
func TestARunningSagaIsErased(t *testing.T) {
	d := newDesk(t)
	waits := d.Start(letter{Of: "customer-2", Text: secret})
	d.Settle()
	d.Advance(time.Second)
	d.Settle()
	fresh := d.Start(letter{Of: "customer-1", Text: secret}) // has not begun
	d.agree(waits)                                           // a command, not obeyed yet
	back := d.Start(letter{Of: "customer-3", Text: secret, Mode: "fail"})
	for _, of := range []string{"customer-1", "customer-2"} {
		if _, err := d.erase(of, false); !errors.Is(err, codec.ErrInUse) {
			t.Errorf("%s: %v, want ErrInUse", of, err)
		}
		e, err := d.erase(of, true)
		if err != nil || e.Unfinished != 1 {
			t.Fatalf("%+v, %v", e, err)
		}
	}
	err := pgx.BeginFunc(t.Context(), d.pool, func(tx pgx.Tx) error {
		return d.Engine.Signal(t.Context(), tx, pgengine.ID(waits), consent{secret})
	})
	if !errors.Is(err, codec.ErrErased) {
		t.Errorf("a signal to an erased saga: %v, want ErrErased", err)
	}
	d.agree(back)
	d.Run()
	for _, id := range []string{fresh, waits} {
		s := d.Get(id)
		if s.State != pgengine.Stuck || s.Cause == nil || !strings.Contains(s.Cause.Error, "erased") {
			t.Errorf("the saga is %s, %v; want stuck, as it was erased\n%+v", s.State, s.Cause, s.Steps)
		}
	}
	if s := d.Get(back); s.State != pgengine.Compensated {
		t.Errorf("another subject's saga is %s", s.State)
	}
	d.hidden("stuck")
}
