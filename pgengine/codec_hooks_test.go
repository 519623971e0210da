package pgengine_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/pgengine"
)

// Hooks see what steps see, and what they publish lies in the database as what steps publish.
func TestHooksUnderACodec(t *testing.T) {
	d := newDesk(t)
	var seen []string
	hook := func(ctx context.Context, tx pgx.Tx, c letterCall, ev pgengine.Event) error {
		seen = append(seen, ev.Step+":"+c.Input.Text)
		return outbox.Publish(ctx, tx, outbox.JSON("letters", "", c.Input))
	}
	saga := letters(d.undone)[0].(pgengine.Saga[letter])
	saga.OnStart, saga.OnStep, saga.OnEnd = hook, hook, hook
	e, err := pgengine.New(d.pool, pgengine.Config{
		Sagas: []pgengine.Definition{saga, letters(d.undone)[1]}, Codec: d.codec(d.key), NoWake: true, Logger: slog.New(slog.NewTextHandler(d.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	d.Engine = e
	id := d.Start(letter{Of: "customer-1", Text: "dear " + secret})
	d.agree(id)
	d.Run()
	if s := d.Get(id); s.State != pgengine.Completed || len(seen) != 8 {
		t.Errorf("the saga is %s, and hooks were called %d times, want 8: %q", s.State, len(seen), seen)
	}
	for _, what := range seen {
		if !strings.HasSuffix(what, ":dear "+secret) {
			t.Errorf("a hook saw %q", what)
		}
	}
	d.hidden("ended")

	lost := d.Start(letter{Of: "customer-2", Text: secret})
	if _, err := d.erase("customer-2", true); err != nil {
		t.Fatal(err)
	}
	d.Run()
	if s := d.Get(lost); s.State != pgengine.Stuck || len(seen) != 8 {
		t.Errorf("the erased saga is %s, and its hooks were called: %q", s.State, seen[8:])
	}
}
