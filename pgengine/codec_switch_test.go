package pgengine_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/pgengine"
)

// begin starts a saga with a key.
func (d *desk) begin(key string, in letter) (s pgengine.Started, err error) {
	err = pgx.BeginFunc(d.t.Context(), d.pool, func(tx pgx.Tx) error {
		s, err = d.Engine.Start(d.t.Context(), tx, in, &pgengine.StartOptions{Key: key})
		return err
	})
	return s, err
}

// A start key tells the same input from another, though nobody can compare what is stored: also under another key-encryption
// key, and without compression.
func TestStartKeysOfEncodedInputs(t *testing.T) {
	d := newDesk(t)
	in := letter{Of: "customer-1", Text: strings.Repeat(secret, 50)}
	first, err := d.begin("k", in)
	if err != nil || first.Existed {
		t.Fatalf("%+v, %v", first, err)
	}
	two, err := codec.NewKey("k2")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*codec.Codec{d.codec(d.key), d.codec(two, d.key)} {
		d.restart(c)
		if again, err := d.begin("k", in); err != nil || !again.Existed || again.ID != first.ID {
			t.Errorf("the same input: %+v, %v", again, err)
		}
		for _, other := range []letter{{Of: "customer-1", Text: "x"}, {Of: "customer-2", Text: in.Text}} {
			if _, err := d.begin("k", other); !errors.Is(err, pgengine.ErrOtherInput) || strings.Contains(err.Error(), secret) {
				t.Errorf("another input: %v, want ErrOtherInput", err)
			}
		}
	}
	d.hidden("started")
}

// The limit is of what a payload was, not of what it is stored as.
func TestTheLimitIsOfThePlainPayload(t *testing.T) {
	d := newDesk(t)
	ring, err := codec.ParseKeys(d.key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := codec.New(codec.Config{Keyring: ring}) // it makes payloads larger
	if err != nil {
		t.Fatal(err)
	}
	e, err := pgengine.New(d.pool, pgengine.Config{Sagas: letters(d.undone), Codec: c, NoWake: true, MaxPayload: 1000, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	d.Engine = e
	s, err := d.begin("", letter{Text: strings.Repeat("x", 900)})
	if err != nil {
		t.Fatalf("below the limit: %v", err)
	}
	if _, err := d.begin("", letter{Text: strings.Repeat("x", 1001)}); !errors.Is(err, pgengine.ErrTooLarge) {
		t.Errorf("above the limit: %v, want ErrTooLarge", err)
	}
	for n, want := range map[int]error{900: nil, 1001: pgengine.ErrTooLarge} {
		err := pgx.BeginFunc(t.Context(), d.pool, func(tx pgx.Tx) error {
			return e.Signal(t.Context(), tx, pgengine.ID(s.ID), consent{strings.Repeat("x", n)})
		})
		if !errors.Is(err, want) {
			t.Errorf("a signal of %d bytes: %v, want %v", n, err, want)
		}
	}
}

// A codec is switched on under sagas that run: what is plain stays so and is read, what comes is encoded, and start keys hold.
func TestACodecIsSwitchedOn(t *testing.T) {
	d := newDesk(t)
	on := d.codec(d.key)
	d.restart(nil)
	in := letter{Of: "customer-1", Text: "dear " + secret}
	s, err := d.begin("k", in)
	if err != nil {
		t.Fatal(err)
	}
	d.Settle()
	d.restart(on)
	if again, err := d.begin("k", in); err != nil || again.ID != s.ID {
		t.Errorf("the same start with a codec: %+v, %v", again, err)
	}
	d.agree(s.ID)
	d.Run()
	if got := d.Get(s.ID); got.State != pgengine.Completed || d.reads(s.ID) < 6 {
		t.Errorf("the saga is %s, %v", got.State, got.Cause)
	}
	var encoded int
	if err := d.pool.QueryRow(t.Context(), `SELECT count(*) FROM pgsagaz.step WHERE result::text LIKE '{"pgsagaz":1,%'`).Scan(&encoded); err != nil || encoded < 5 {
		t.Errorf("%d results are encoded, %v", encoded, err)
	}
}

// A worker without the keys does not run a saga on what it can't read, and does it no harm: one that has them goes on.
func TestAWorkerWithoutTheKeys(t *testing.T) {
	d := newDesk(t)
	on := d.codec(d.key)
	other, err := codec.NewKey("k9")
	if err != nil {
		t.Fatal(err)
	}
	id := d.Start(letter{Of: "customer-1", Text: "dear " + secret})
	for want, c := range map[error]*codec.Codec{codec.ErrNoCodec: nil, codec.ErrNoKey: d.codec(other)} {
		d.restart(c)
		for range 3 {
			err := d.Engine.Run(t.Context(), ticket(t, d.pool, id, "letter", ""), pgengine.RunOptions{Worker: "w"})
			if !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
		}
		if s := d.Get(id); s.State != pgengine.Running || len(s.Attempts) > 0 || string(s.Input) != `{"pgsagaz":"encoded"}` {
			t.Errorf("the saga is %s after %+v, its input is shown as %s", s.State, s.Attempts, s.Input)
		}
	}
	if text := d.log.String(); !strings.Contains(text, "no codec is configured here") || !strings.Contains(text, "not in the keyring") {
		t.Errorf("the log does not say why:\n%s", text)
	}
	d.restart(on)
	d.agree(id)
	d.Run()
	if s := d.Get(id); s.State != pgengine.Completed {
		t.Errorf("the saga is %s, %v\n%+v", s.State, s.Cause, s.Steps)
	}
}

// What does not fit a type is told without what it holds.
func TestMisfitsAreNotShown(t *testing.T) {
	d := newDesk(t)
	err := pgx.BeginFunc(t.Context(), d.pool, func(tx pgx.Tx) error {
		_, err := d.Engine.StartJSON(t.Context(), tx, "letter", []byte(`{"Text": 4111111111111111}`), nil)
		return err
	})
	if err == nil || strings.Contains(err.Error(), "4111") || !strings.Contains(err.Error(), "number does not fit its field Text") {
		t.Errorf("%v", err)
	}
	id := d.Start(letter{Of: "customer-1"})
	d.Settle()
	d.Tx(func(tx pgx.Tx) error {
		return d.Engine.SignalJSON(t.Context(), tx, pgengine.ID(id), "consent", []byte(`{"Text": 4111111111111111}`), nil)
	})
	d.Run()
	if text := d.log.String(); strings.Contains(text, "4111") || !strings.Contains(text, "its payload does not fit") {
		t.Errorf("%s", text)
	}
}
