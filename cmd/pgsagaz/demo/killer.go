package demo

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// killEvery is about the time from one kill to the next.
const killEvery = 2 * time.Second

// Kill is a worker process that was killed while it worked.
type Kill struct {
	Worker    string     `json:"worker"`
	Pid       int        `json:"pid"`
	Takeovers []Takeover `json:"takeovers"`
}

// Takeover is a saga that another worker went on with.
type Takeover struct {
	SagaID string `json:"saga_id"`
	Step   string `json:"step"`             // where the dead worker had been
	Worker string `json:"worker,omitempty"` // who went on; "": it was done before we could see by whom
	// AfterMS is the time since the kill.
	AfterMS float64 `json:"after_ms"`
}

type killer struct {
	r     *run
	kills []Kill
}

func newKiller(r *run) *killer { return &killer{r: r} }

// run kills workers at even distances, replaces each at once, and waits for their sagas to be taken over.
func (k *killer) run(ctx context.Context) error {
	for range k.r.Kills {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(killEvery / 2):
		}
		if err := k.kill(ctx); err != nil {
			return err
		}
	}
	return nil
}

// kill waits for a worker that has something in hand; there may be none any more.
func (k *killer) kill(ctx context.Context) error {
	waiting, cancel := context.WithTimeout(ctx, 2*killEvery)
	defer cancel()
	victim, err := k.r.fleet.busiest(waiting)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		k.r.screen.event("nobody is at work, so nobody is killed")
		return nil
	}
	if err != nil {
		return err
	}
	k.r.fleet.remove(victim.id)
	if err := victim.kill(); err != nil {
		return fmt.Errorf("kill worker %s: %w", victim.id, err)
	}
	begun := time.Now()
	<-victim.ended
	heir, err := k.r.fleet.add(ctx)
	if err != nil {
		return err
	}
	done := Kill{Worker: victim.id, Pid: victim.pid}
	held, err := k.held(ctx, victim.id)
	if err != nil {
		return err
	}
	k.r.screen.event("kill -9 %d (%s): steps in hand: %d; %s (%d) replaces it", victim.pid, short(victim.id), len(held), short(heir.id), heir.pid)
	if done.Takeovers, err = k.follow(ctx, victim.id, held, begun); err != nil {
		return err
	}
	k.kills = append(k.kills, done)
	k.show(done, len(held))
	return nil
}

// held are the lanes that the dead left behind.
func (k *killer) held(ctx context.Context, worker string) (map[int64]Takeover, error) {
	held := map[int64]Takeover{}
	rows, err := k.r.pool.Query(ctx, `SELECT id, saga_id::text, step FROM pgsagaz.lane WHERE worker = $1`, worker)
	if err != nil {
		return nil, err
	}
	var lane int64
	var t Takeover
	_, err = pgx.ForEachRow(rows, []any{&lane, &t.SagaID, &t.Step}, func() error { held[lane] = t; return nil })
	return held, err
}

// follow looks until every lane has another worker, or has come to its end. In held are then those that have neither.
func (k *killer) follow(ctx context.Context, dead string, held map[int64]Takeover, begun time.Time) (all []Takeover, err error) {
	for len(held) > 0 && time.Since(begun) < stall {
		rows, err := k.r.pool.Query(ctx, `
			SELECT had.id, coalesce(l.worker, (SELECT s.worker FROM pgsagaz.step s WHERE s.saga_id = had.saga::uuid AND s.step = had.step
			                                   ORDER BY s.ended_at DESC LIMIT 1), '')
			FROM unnest($1::bigint[], $2::text[], $3::text[]) AS had(id, saga, step) LEFT JOIN pgsagaz.lane l ON l.id = had.id
			WHERE l.id IS NULL OR l.worker <> $4`, append(columns(held), dead)...)
		if err != nil {
			return nil, err
		}
		var lane int64
		var heir string
		after := float64(time.Since(begun).Microseconds()) / 1000
		if _, err := pgx.ForEachRow(rows, []any{&lane, &heir}, func() error {
			t := held[lane]
			delete(held, lane)
			if heir != dead { // else its last COMMIT was on its way as it died, and there was nothing to take over
				t.Worker, t.AfterMS = heir, after
				all = append(all, t)
			}
			return nil
		}); err != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
	return all, nil
}

// columns are held as arrays.
func columns(held map[int64]Takeover) []any {
	var ids []int64
	var sagas, steps []string
	for id, t := range held {
		ids, sagas, steps = append(ids, id), append(sagas, t.SagaID), append(steps, t.Step)
	}
	return []any{ids, sagas, steps}
}

// show tells of the first few.
func (k *killer) show(kill Kill, missing int) {
	const most = 3
	for i, t := range kill.Takeovers {
		if i == most {
			k.r.screen.event("  ... and %d more, the last after %.0f ms", len(kill.Takeovers)-most, kill.Takeovers[len(kill.Takeovers)-1].AfterMS)
			break
		}
		k.r.screen.event("  saga %s, step %s: taken over by %s after %.0f ms", t.SagaID, t.Step, short(t.Worker), t.AfterMS)
	}
	if missing > 0 {
		k.r.screen.event("  %d were not taken over within %v", missing, stall)
	}
}

// short is the end of a worker's id: w2.
func short(id string) string { return id[strings.LastIndexByte(id, '-')+1:] }
