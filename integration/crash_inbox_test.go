//go:build unix && failpoint

package integration

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/inbox/memorysub"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// letter n is plain, or one that nobody can deliver for now; some have ids of another make.
func letter(n int) inbox.Message {
	m := inbox.Message{ID: uuid.Must(uuid.NewV7()).String(), Source: "crash", Topic: "letters", Type: "letter", Key: fmt.Sprintf("key %d", n%10), Payload: []byte("{}")}
	switch n % 8 {
	case 0:
		m.ID = fmt.Sprintf("letter %d", n)
	case 5:
		m.Key = fmt.Sprintf("dead %d", n%10)
	}
	return m
}

// A process of consumers kills itself at a point where that could matter, while messages come, fail, are given up and redriven, and
// old entries are cleaned up. With whoever comes after it, each message takes effect exactly once, and along each key in order.
func TestCrashOfAConsumerAtEveryPoint(t *testing.T) {
	t.Parallel()
	random := seeded(t)
	for _, point := range pointsOf("inbox.") {
		hit := hitOf(random, point)
		t.Run(fmt.Sprintf("%s_%d", point, hit), func(t *testing.T) {
			t.Parallel()
			url := sqltest.URL(t)
			pool, err := pgxpool.New(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(pool.Close)
			mustExec(t, pool, `CREATE TABLE ledger (n bigint GENERATED ALWAYS AS IDENTITY, consumer text, event text, key text); CREATE TABLE cured (id integer);
				SELECT pgsagaz.inbox_make_partitions(now())`)
			withOldDays(t, pool)
			broker := memorysub.New(memorysub.Config{Partitions: 4})
			o := partOptions{URL: url, Post: post{broker: broker}.listen(t), Consumers: []string{"mailer", "search"}}
			victim := o
			victim.Failpoint, victim.Hit = point, hit
			p := startProcess(t, "victim", partVariable, victim)

			load, end := context.WithCancel(context.WithoutCancel(t.Context()))
			defer end()
			sent := map[string][]string{} // by key, in order
			var loads sync.WaitGroup
			loads.Go(func() {
				for n := 0; load.Err() == nil; n++ {
					m := letter(n)
					sent[m.Key] = append(sent[m.Key], m.ID)
					broker.Publish(m)
					if n%3 == 0 {
						broker.Publish(m)
					}
					if n > 1500 || !strings.HasSuffix(point, "give_back") { // something must be left over there
						time.Sleep(5 * time.Millisecond)
					}
				}
			})
			loads.Go(func() {
				for n := 0; load.Err() == nil; n++ {
					redriveAll(t, pool)
					if _, err := pool.Exec(t.Context(), `INSERT INTO pgsagaz.consumer_inbox (event_id, consumer_name, source_topic, event_type, consumed_at, foreign_id)
						VALUES (pgsagaz.inbox_hash('old', $1), 'mailer', '', '', now() - interval '40 days', $1)`, fmt.Sprint(n)); err != nil {
						t.Error(err)
					}
					time.Sleep(100 * time.Millisecond)
				}
			})
			if strings.HasSuffix(point, "give_back") {
				eventually(t, patience, "something takes effect, and more is held", func() bool {
					var some bool
					err := pool.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM ledger)`).Scan(&some)
					return err == nil && some
				})
				p.term()
			}
			if sig := p.wait(t); sig != syscall.SIGKILL {
				t.Fatalf("the consumers ended with %v: %s was not reached %d times", p.cmd.ProcessState, point, hit)
			}
			end()
			loads.Wait()
			mustExec(t, pool, `INSERT INTO cured VALUES (1); UPDATE pgsagaz.inbox_state SET cleaning = '-infinity'`) // as ten minutes would
			startProcess(t, "heir", partVariable, o)
			eventually(t, patience, "all is delivered", func() bool {
				redriveAll(t, pool)
				var dead int
				if err := pool.QueryRow(t.Context(), `SELECT count(*) FROM pgsagaz.inbox_dead`).Scan(&dead); err != nil {
					t.Fatal(err)
				}
				return dead == 0 && broker.Waiting("mailer")+broker.Waiting("search") == 0
			})
			if r, err := inbox.Cleanup(t.Context(), pool, nil); err != nil {
				t.Errorf("cleanup: %+v, %v", r, err)
			}
			for _, consumer := range o.Consumers {
				audited(t, pool, consumer, sent)
			}
		})
	}
}

func redriveAll(t *testing.T, pool *pgxpool.Pool) {
	dead, err := inbox.DeadLetters(t.Context(), pool, inbox.DeadFilter{})
	if err != nil {
		t.Error(err)
		return
	}
	for _, d := range dead {
		if _, err := inbox.Redrive(t.Context(), pool, inbox.By{}, d.ID); err != nil {
			t.Error(err)
		}
	}
}

// audited holds the ledger against what was sent: each once, and along each key in order, but for redriven ones.
func audited(t *testing.T, pool *pgxpool.Pool, consumer string, sent map[string][]string) {
	t.Helper()
	for key, want := range sent {
		rows, err := pool.Query(t.Context(), `SELECT event FROM ledger WHERE consumer = $1 AND key = $2 ORDER BY n`, consumer, key)
		if err != nil {
			t.Fatal(err)
		}
		var event string
		got := map[string]int{}
		n, wrong := 0, ""
		for rows.Next() {
			if err := rows.Scan(&event); err != nil {
				t.Fatal(err)
			}
			got[event]++
			if n < len(want) && want[n] != event && wrong == "" {
				wrong = fmt.Sprintf("%s stands at the place of %s", event, want[n])
			}
			n++
		}
		for _, id := range want {
			if got[id] != 1 {
				t.Errorf("%s: event %s of %s took effect %d times", consumer, id, key, got[id])
			}
		}
		if n != len(want) || wrong != "" && !strings.HasPrefix(key, "dead") {
			t.Errorf("%s: %d effects of %d events of %s; %s", consumer, n, len(want), key, wrong)
		}
	}
}

// withOldDays gives the inbox a partition a day, some of which are too old to keep.
func withOldDays(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	mustExec(t, pool, `DO $$
		DECLARE
			today timestamptz := date_trunc('day', pgsagaz.now(), 'UTC');
			name  text;
		BEGIN
			DELETE FROM pgsagaz.inbox_partition p WHERE p.name = 'consumer_inbox_20200101';
			DROP TABLE pgsagaz.consumer_inbox_20200101;
			UPDATE pgsagaz.inbox_state SET floor = pgsagaz.inbox_bound(today - interval '36 days');
			FOR n IN REVERSE 36..1 LOOP
				name := 'consumer_inbox_' || to_char((today - n * interval '1 day') AT TIME ZONE 'UTC', 'YYYYMMDD');
				EXECUTE format('CREATE TABLE pgsagaz.%I PARTITION OF pgsagaz.consumer_inbox FOR VALUES FROM (%L) TO (%L)', name,
					pgsagaz.inbox_bound(today - n * interval '1 day'), pgsagaz.inbox_bound(today - (n - 1) * interval '1 day'));
				INSERT INTO pgsagaz.inbox_partition (name, lower, upper, late) VALUES (name,
					pgsagaz.inbox_bound(today - n * interval '1 day'), pgsagaz.inbox_bound(today - (n - 1) * interval '1 day'), false);
			END LOOP;
		END $$`)
}
