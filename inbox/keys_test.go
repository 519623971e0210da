package inbox_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/outbox"
)

// keyService is a keyring that may fail, by the name of the key.
type keyService struct {
	codec.Keyring
	fails atomic.Pointer[func(ctx context.Context, name string) error]
	asked atomic.Int64
}

func (s *keyService) set(f func(ctx context.Context, name string) error) { s.fails.Store(&f) }

func (s *keyService) Unwrap(ctx context.Context, name string, about, wrapped []byte) ([]byte, error) {
	s.asked.Add(1)
	if err := (*s.fails.Load())(ctx, name); err != nil {
		return nil, err
	}
	return s.Keyring.Unwrap(ctx, name, about, wrapped)
}

func (s *keyService) codec(t *testing.T) *codec.Codec {
	t.Helper()
	c, err := codec.New(codec.Config{Keyring: s, KeepKeys: time.Nanosecond}) // each payload asks
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newKeyService(t *testing.T, names ...string) *keyService {
	t.Helper()
	text := ""
	for _, name := range names {
		key, err := codec.NewKey(name)
		if err != nil {
			t.Fatal(err)
		}
		text += key + "\n"
	}
	ring, err := codec.ParseKeys(text)
	if err != nil {
		t.Fatal(err)
	}
	s := &keyService{Keyring: ring}
	s.set(func(context.Context, string) error { return nil })
	return s
}

// blameless fails the test if a message is held against anybody.
func blameless(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	if n := query[int](t, pool, `SELECT (SELECT count(*) FROM pgsagaz.inbox_failure) + (SELECT count(*) FROM pgsagaz.inbox_dead)`); n > 0 {
		t.Errorf("%d failures are recorded, of nobody's making", n)
	}
}

// TestKeysThatAreAwayAreWaitedFor: whether the inbox needs a key for what it keeps, or the handler for what it publishes, and whether the key service
// answers with an error or not at all: messages wait, no attempt counts, and each takes effect once when the service is back.
func TestKeysThatAreAwayAreWaitedFor(t *testing.T) {
	t.Parallel()
	hangs := func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() }
	for name, c := range map[string]struct {
		keep  bool
		hangs bool
		fail  func(context.Context, string) error
	}{
		"kept, it fails":      {true, false, func(context.Context, string) error { return errors.New("503") }},
		"kept, it hangs":      {true, true, hangs},
		"published, it fails": {false, false, func(context.Context, string) error { return errors.New("503") }},
		"published, no key":   {false, false, func(context.Context, string) error { return fmt.Errorf("%w: k1", codec.ErrNoKey) }},
		"published, it hangs": {false, true, hangs},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := newLedger(t)
			attempts, timeout := 1, time.Minute
			if c.hangs { // which must not bring down those that are slow once the service is back
				attempts, timeout = 1000, 200*time.Millisecond
			}
			keys := newKeyService(t, "k1")
			keys.set(c.fail)
			b := newBroker()
			b.Publish(letters(20, 5)...)
			run(t, pool, b.Source("c"), func(ctx context.Context, tx pgx.Tx, m inbox.Message) error {
				if err := writes("c")(ctx, tx, m); err != nil || c.keep {
					return err
				}
				return outbox.Publish(ctx, tx, outbox.Message{Topic: "t", Payload: m.Payload})
			}, inbox.Config{MaxAttempts: attempts, Timeout: timeout, KeepPayload: c.keep, Codec: keys.codec(t), Subject: func(m inbox.Message) string { return m.Key }})
			eventually(t, "keys are asked for again and again", func() bool { return keys.asked.Load() > 8 })
			if n := query[int](t, pool, `SELECT count(*) FROM ledger`); n > 0 {
				t.Errorf("%d effects without a key", n)
			}
			blameless(t, pool)
			keys.set(func(context.Context, string) error { return nil })
			drained(t, b)
			if n := query[int](t, pool, `SELECT count(*) FROM ledger`); n != 20 {
				t.Errorf("%d effects, want 20", n)
			}
			if !c.hangs {
				blameless(t, pool)
			}
		})
	}
}

// TestAKeyThatIsMissingHoldsItsMessagesAlone: what needs a key-encryption key that is not in the keyring waits, and lets all others by.
func TestAKeyThatIsMissingHoldsItsMessagesAlone(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	keys := newKeyService(t, "old")
	if _, err := keys.codec(t).KeyOf(t.Context(), pool, "k3"); err != nil { // a data key under the old one
		t.Fatal(err)
	}
	keys = newKeyService(t, "new")
	b := newBroker()
	b.Publish(letters(50, 5)...)
	run(t, pool, b.Source("c"), writes("c"), inbox.Config{Workers: 1, MaxAttempts: 1, KeepPayload: true, Codec: keys.codec(t), Subject: func(m inbox.Message) string { return m.Key }})
	eventually(t, "all others have taken effect", func() bool { return query[int](t, pool, `SELECT count(*) FROM ledger`) == 40 })
	if n := query[int](t, pool, `SELECT count(*) FROM ledger WHERE key = 'k3'`); n > 0 {
		t.Errorf("%d effects of messages whose key is missing", n)
	}
	blameless(t, pool)
}

// TestASubjectThatIsNoNameIsGivenUp: whether its payload is to be kept with the entry, or the handler fails on it: the message becomes a dead letter without
// its payload, and what comes behind it goes on. A redrive of it is given up again, and hands the handler nothing.
func TestASubjectThatIsNoNameIsGivenUp(t *testing.T) {
	t.Parallel()
	for name, subject := range map[string]string{"too long": strings.Repeat("x", 513), "NUL": "a\x00b", "not UTF-8": "a\xff"} {
		for _, keep := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, kept: %v", name, keep), func(t *testing.T) {
				t.Parallel()
				pool := newLedger(t)
				b := newBroker()
				messages := letters(6, 1)
				bad := messages[1].ID
				b.Publish(messages...)
				run(t, pool, b.Source("c"), func(ctx context.Context, tx pgx.Tx, m inbox.Message) error {
					if m.ID == bad {
						return outbox.Publish(ctx, tx, outbox.Message{Topic: "t", Payload: m.Payload})
					}
					return writes("c")(ctx, tx, m)
				}, inbox.Config{MaxAttempts: 2, KeepPayload: keep, Codec: newKeyService(t, "k1").codec(t), Subject: func(m inbox.Message) string {
					if m.ID == bad {
						return subject
					}
					return m.Key
				}})
				drained(t, b)
				if n := query[int](t, pool, `SELECT count(*) FROM ledger`); n != 5 {
					t.Errorf("%d effects, want 5", n)
				}
				shown := func() inbox.DeadLetter {
					all := deadLetters(t, pool)
					if len(all) != 1 || all[0].Message.ID != bad || string(all[0].Message.Payload) != `{"pgsagaz":"not kept"}` {
						t.Fatalf("dead letters: %+v", all)
					}
					return all[0]
				}
				d := shown()
				if !strings.Contains(d.Error, "the subject is no name") {
					t.Errorf("given up for %q", d.Error)
				}
				if _, err := inbox.Redrive(t.Context(), pool, inbox.By{}, d.ID); err != nil {
					t.Fatal(err)
				}
				eventually(t, "it is back", func() bool { return !deadLetters(t, pool)[0].Redriving })
				if d = shown(); !strings.Contains(d.Error, "was not kept") {
					t.Errorf("given up again for %q", d.Error)
				}
			})
		}
	}
}
