package integration

import (
	"bytes"
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
	"golang.org/x/sync/errgroup"

	"github.com/pgsagaz/pgsagaz/cmd/pgsagaz/cli"
	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/inbox/memorysub"
	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// planted is what nobody may find, but whom it is for.
const planted = "Rumpelstiltskin"

// account is the input of a saga about a person.
type account struct {
	Person string `json:"person"`
	Name   string `json:"name"`
}

func (account) SagaName() string  { return "account" }
func (a account) Subject() string { return a.Person }

// spool is a log that several write to.
type spool struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *spool) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *spool) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// picky is a broker that rejects some messages, and notes what it was given.
type picky struct {
	to  *memorysub.Broker
	got *spool
}

func (p picky) Publish(_ context.Context, events []outbox.Event) []error {
	errs := make([]error, len(events))
	for i, e := range events {
		if e.Topic == "unwanted" {
			errs[i] = &outbox.RejectedError{Err: errors.New("no such topic")}
			continue
		}
		fmt.Fprintf(p.got, "%s\n", e.Payload)
		p.to.Publish(inbox.Message{ID: e.ID.String(), Source: "bank", Topic: e.Topic, Type: e.Type, Payload: e.Payload, Headers: e.Headers})
	}
	return errs
}

func (picky) Close() error { return nil }

// TestErasure: a person's name goes through a saga, the outbox, a broker, an inbox and the dead letters of both. It is in no
// table and in no log at any time; the broker and the handlers get it as it is; all that is kept is exported; and once the person
// is erased it can't be had any more, though the sagas and letters are still there.
func TestErasure(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	line, err := codec.NewKey("k1")
	if err != nil {
		t.Fatal(err)
	}
	ring, err := codec.ParseKeys(line)
	if err != nil {
		t.Fatal(err)
	}
	c, err := codec.New(codec.Config{Keyring: ring, Compress: true})
	if err != nil {
		t.Fatal(err)
	}
	log, wire := &spool{}, &spool{}
	logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))

	open := pgengine.TxStep[account, account]{
		Name: "open",
		Do: func(ctx context.Context, tx pgx.Tx, c pgengine.Call[account]) (account, error) {
			err := outbox.Publish(ctx, tx, outbox.JSON("opened", c.Input.Person, c.Input))
			if err == nil {
				err = outbox.Publish(ctx, tx, outbox.JSON("unwanted", "u "+c.Input.Person, c.Input))
			}
			return c.Input, err
		},
	}
	engine, err := pgengine.New(pool, pgengine.Config{
		Logger: logger, Codec: c, Sagas: []pgengine.Definition{pgengine.Saga[account]{Version: 1, Output: open, Steps: pgengine.Steps[account](open)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	worker, err := jobs.NewWorker(engine, jobs.Config{ArchiveAfter: -1})
	if err != nil {
		t.Fatal(err)
	}
	broker := memorysub.New(memorysub.Config{})
	relay, err := outbox.NewRelay(pool, picky{broker, wire}, outbox.Config{
		Logger: logger, Codec: c, Archive: time.Hour, Retry: outbox.Retry{MaxAttempts: 2, Initial: time.Millisecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	whose := func(m inbox.Message) string {
		var a account
		_ = json.Unmarshal(m.Payload, &a)
		return a.Person
	}
	var handled spool
	takes, err := inbox.NewConsumer(pool, broker.Source("takes"), func(_ context.Context, _ pgx.Tx, m inbox.Message) error {
		_, err := handled.Write(append(m.Payload, '\n'))
		return err
	}, inbox.Config{Name: "takes", Logger: logger, Codec: c, Subject: whose, KeepPayload: true})
	if err != nil {
		t.Fatal(err)
	}
	refuses, err := inbox.NewConsumer(pool, broker.Source("refuses"), func(context.Context, pgx.Tx, inbox.Message) error {
		return inbox.Terminal(errors.New("not today"))
	}, inbox.Config{Name: "refuses", Logger: logger, Codec: c, Subject: whose})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var group errgroup.Group
	for _, run := range []func(context.Context) error{worker.Run, relay.Run, takes.Run, refuses.Run} {
		group.Go(func() error { return run(ctx) })
	}
	ids := map[string]string{}
	for _, person := range []string{"p1", "p2"} {
		if err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			s, err := engine.Start(t.Context(), tx, account{person, person + " " + planted}, &pgengine.StartOptions{Key: person})
			ids[person] = s.ID
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if s, err := engine.Wait(t.Context(), ids[person]); err != nil || s.State != pgengine.Completed {
			t.Fatalf("%+v, %v", s, err)
		}
	}
	count := func(question string) (n int) {
		if err := pool.QueryRow(t.Context(), question).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for deadline := time.Now().Add(time.Minute); count(`SELECT count(*) FROM pgsagaz.outbox_dead`) < 2 ||
		count(`SELECT count(*) FROM pgsagaz.inbox_dead`) < 2 || count(`SELECT count(*) FROM pgsagaz.consumer_inbox WHERE consumer_name = 'takes'`) < 2; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the letters have not arrived:\n%s", log)
		}
	}
	stop()
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{"broker": wire.String(), "handler": handled.String()} {
		if n := strings.Count(text, planted); n != 2 {
			t.Errorf("the %s got the name %d times, want 2: %s", what, n, text)
		}
	}
	hidden := func(when string) {
		t.Helper()
		for place, text := range map[string]string{"database": sqltest.Dump(t, pool), "log": log.String()} {
			if i := strings.Index(text, planted); i >= 0 {
				t.Errorf("%s: the %s shows the name: ...%q", when, place, text[max(0, i-300):i+len(planted)])
			}
		}
	}
	hidden("while it is kept")

	// The rest by the command line, as a person would.
	pgsagaz := func(args ...string) (code int, stdout string) {
		t.Helper()
		var out, errs bytes.Buffer
		code = cli.Program{}.Run(t.Context(), cli.Streams{
			Args: args, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs,
			Getenv: func(name string) string {
				return map[string]string{"PGSAGAZ_DATABASE_URL": pool.Config().ConnString(), "PGSAGAZ_CODEC_KEYS": line, "USER": "anna"}[name]
			},
		})
		if strings.Contains(errs.String(), planted) {
			t.Errorf("pgsagaz %v: the name is in its errors: %s", args, errs.String())
		}
		return code, out.String() + errs.String()
	}
	code, exported := pgsagaz("saga", "export", "--subject", "p1")
	if n := strings.Count(exported, "p1 "+planted); code != 0 || n < 6 || strings.Contains(exported, "p2 "+planted) {
		t.Errorf("exit code %d, the export shows the name %d times:\n%s", code, n, exported)
	}
	for _, part := range []string{`"outbox_dead"`, `"outbox_archive"`, `"consumer_inbox"`, `"inbox_dead"`, ids["p1"]} {
		if !strings.Contains(exported, part) && part != `"outbox_archive"` { // the archive is filled when a slot is emptied
			t.Errorf("the export lacks %s:\n%s", part, exported)
		}
	}
	if code, said := pgsagaz("saga", "erase", "--subject", "p1"); code != 2 {
		t.Errorf("without a reason: exit code %d: %s", code, said)
	}
	if code, said := pgsagaz("saga", "erase", "--subject", "nobody", "--reason", "x"); code != 1 || !strings.Contains(said, "nobody") {
		t.Errorf("exit code %d: %s", code, said)
	}
	if code, said := pgsagaz("saga", "erase", "--subject", "p1", "--reason", "letter of 3 May"); code != 0 || !strings.Contains(said, "p1 is erased") {
		t.Fatalf("exit code %d: %s", code, said)
	}
	if code, said := pgsagaz("saga", "erase", "--subject", "p1", "--reason", "again"); code != 0 || !strings.Contains(said, "letter of 3 May") || !strings.Contains(said, "anna") {
		t.Errorf("exit code %d: %s", code, said)
	}
	hidden("erased")
	var dead, letter int64
	if err := pool.QueryRow(t.Context(), `SELECT (SELECT min(id) FROM pgsagaz.outbox_dead), (SELECT min(id) FROM pgsagaz.inbox_dead)`).Scan(&dead, &letter); err != nil {
		t.Fatal(err)
	}
	shows := map[bool]int{}
	for _, args := range [][]string{
		{"saga", "show", ids["p1"]}, {"saga", "show", ids["p2"]}, {"saga", "export", "--subject", "p1"}, {"saga", "export", "--subject", "p2"}, {"saga", "list"},
		{"outbox", "dead", "show", fmt.Sprint(dead)}, {"inbox", "dead", "show", fmt.Sprint(letter)},
	} {
		code, said := pgsagaz(args...)
		if code != 0 || strings.Contains(said, "p1 "+planted) {
			t.Errorf("pgsagaz %v: exit code %d, it shows\n%s", args, code, said)
		}
		if strings.Contains(said, `{"pgsagaz":"erased"}`) || strings.Contains(said, `"pgsagaz": "erased"`) {
			shows[true]++
		}
		if strings.Contains(said, "p2 "+planted) {
			shows[false]++
		}
	}
	if shows[true]+shows[false] != 6 || shows[true] < 2 || shows[false] < 2 {
		t.Errorf("%d show that they are erased, %d the other's name; of 6 each shows one", shows[true], shows[false])
	}
	if code, said := pgsagaz("codec", "status"); code != 0 || !strings.Contains(said, "k1") || !strings.Contains(said, "erased") {
		t.Errorf("exit code %d: %s", code, said)
	}
}
