package outbox_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/sql"
)

// TestAnErasureSeesWhatIsAboutToCommit: an erasure that is not by force waits for transactions that have published under the subject, by
// whatever way. It is refused if one commits, and goes through if all roll back. After it nothing is published under the subject any more, also by
// a process that has its key in memory.
func TestAnErasureSeesWhatIsAboutToCommit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.codec(codec.Config{KeepKeys: time.Hour})
	d := w.direct(w.broker, outbox.DirectConfig{})
	m := outbox.Message{Topic: "t", Payload: []byte("Ann")}
	delayed := m
	delayed.NotBefore = time.Now().Add(time.Hour)
	for name, publish := range map[string]func(ctx context.Context, tx pgx.Tx) error{
		"one":     func(ctx context.Context, tx pgx.Tx) error { return outbox.Publish(ctx, tx, m) },
		"two":     func(ctx context.Context, tx pgx.Tx) error { return outbox.Publish(ctx, tx, m, m) },
		"delayed": func(ctx context.Context, tx pgx.Tx) error { return outbox.Publish(ctx, tx, delayed) },
		"direct": func(ctx context.Context, tx pgx.Tx) error {
			_, err := d.PublishAfterCommit(ctx, tx, m)
			return err
		},
	} {
		for ending, end := range map[string]func(pgx.Tx, context.Context) error{"commit": pgx.Tx.Commit, "rollback": pgx.Tx.Rollback} {
			subject := name + " " + ending
			ctx := codec.With(t.Context(), c, subject)
			if _, err := c.KeyOf(ctx, w.pool, subject); err != nil {
				t.Fatal(err)
			}
			tx, err := w.pool.Begin(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if err := publish(ctx, tx); err != nil {
				t.Fatal(err)
			}
			erased := make(chan error, 1)
			go func() {
				erased <- pgx.BeginTxFunc(ctx, w.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
					_, err := codec.Erase(ctx, tx, subject, codec.EraseOptions{Reason: "a letter"})
					return err
				})
			}()
			w.until(subject+": the erasure waits", func() bool {
				select {
				case err := <-erased:
					t.Fatalf("%s: the erasure does not wait: %v", subject, err)
				default:
				}
				return query[int](w, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`) == 1
			})
			if err := end(tx, ctx); err != nil {
				t.Fatal(err)
			}
			err = <-erased
			if ending == "commit" {
				if !errors.Is(err, codec.ErrInUse) {
					t.Errorf("%s: %v, want ErrInUse", subject, err)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s: %v", subject, err)
			}
			err = pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error { return publish(ctx, tx) })
			if e, ok := errors.AsType[*codec.Error](err); !ok || !errors.Is(err, codec.ErrErased) || !e.Final() || e.Key == (codec.Key{}) {
				t.Errorf("%s: a message after the erasure: %v, want ErrErased", subject, err)
			}
		}
	}
	if n := query[int](w, `SELECT (SELECT count(*) FROM pgsagaz.outbox) + (SELECT count(*) FROM pgsagaz.outbox_scheduled) + (SELECT count(*) FROM pgsagaz.outbox_direct)`); n != 5 {
		t.Errorf("%d messages were written, want the 5 that were committed", n)
	}
	// A transaction that sees the past would not see what has committed while it waited.
	err := pgx.BeginTxFunc(t.Context(), w.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
		_, err := codec.Erase(t.Context(), tx, "one commit", codec.EraseOptions{Reason: "a letter"})
		return err
	})
	if err == nil || errors.Is(err, codec.ErrInUse) {
		t.Errorf("with one snapshot for all: %v, want it refused", err)
	}
}

// TestAKeyThatIsNewerThanTheSnapshotIsNotErased: a transaction with one snapshot does not see a key that was made after it. It is told to try again, which is
// what it then does with success; only of an erased subject it is told that it was erased.
func TestAKeyThatIsNewerThanTheSnapshotIsNotErased(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.codec(codec.Config{KeepKeys: time.Hour})
	for _, level := range []pgx.TxIsoLevel{pgx.RepeatableRead, pgx.Serializable} {
		subject := string(level)
		ctx := codec.With(t.Context(), c, subject)
		// publish does it in a transaction whose snapshot is older than what before does.
		publish := func(before func()) error {
			return pgx.BeginTxFunc(ctx, w.pool, pgx.TxOptions{IsoLevel: level}, func(tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, `SELECT count(*) FROM pgsagaz.data_key`); err != nil {
					return err
				}
				before()
				return outbox.Publish(ctx, tx, outbox.Message{Topic: "t", Payload: []byte("Ann")})
			})
		}
		err := publish(func() {
			if _, err := c.KeyOf(ctx, w.pool, subject); err != nil {
				t.Fatal(err)
			}
		})
		if sql.State(err) != "40001" || errors.Is(err, codec.ErrErased) {
			t.Errorf("%s: a key that is newer than the snapshot: %v, want 40001", level, err)
		}
		if err := publish(func() {}); err != nil {
			t.Errorf("%s: the second time: %v", level, err)
		}
		if err := pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
			_, err := codec.Erase(ctx, tx, subject, codec.EraseOptions{Reason: "a letter", Force: true})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if err := publish(func() {}); !errors.Is(err, codec.ErrErased) {
			t.Errorf("%s: after the erasure: %v, want ErrErased", level, err)
		}
	}
}
