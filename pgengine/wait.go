package pgengine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/sql"
)

// lookEvery is how often a process asks the database about the sagas it waits for, all at once.
const lookEvery = 20 * time.Millisecond

// ends is who waits in this process for the end of which saga.
type ends struct {
	mu      sync.Mutex
	waiting map[string][]chan error // told nil: it has ended
	looking bool                    // somebody is asking for all of them
	last    time.Time               // when somebody last did
}

// Wait waits until the saga has ended, and tells how. A saga that is [Stuck] has not. It learns at once of
// an end in this process, and of others by looking every 20 ms, for all who wait here in one query.
//
// Errors: [ErrNotFound]; ctx's.
func (e *Engine) Wait(ctx context.Context, id string) (Status, error) {
	parsed, err := uuid.Parse(id)
	if err != nil {
		return Status{}, fmt.Errorf("wait for saga %q: %w: not an id: %w", id, ErrNotFound, err)
	}
	id = parsed.String()
	told := e.ends.join(id)
	defer e.ends.leave(id, told)
	for wait := time.Duration(0); ; wait = lookEvery {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case err = <-told:
		case <-timer.C:
			// Whoever finds that nobody has looked for a while looks for all.
			if err := e.ends.look(ctx, e.pool); err != nil && ctx.Err() == nil && !transient(answered(err)) {
				return Status{}, fmt.Errorf("wait for saga %s: %w", id, err)
			}
			continue
		}
		timer.Stop()
		var s Status
		if err == nil {
			err = e.head(ctx, e.pool, id, &s)
		}
		if errors.Is(err, pgx.ErrNoRows) {
			s, err = e.archived(ctx, e.pool, id)
			s.Steps, s.Attempts, s.Signals, s.Children = nil, nil, nil, nil
		}
		if err != nil {
			return s, fmt.Errorf("wait for saga %s: %w", id, err)
		}
		return s, nil
	}
}

func (e *ends) join(id string) chan error {
	e.mu.Lock()
	defer e.mu.Unlock()
	told := make(chan error, 1)
	e.waiting[id] = append(e.waiting[id], told)
	return told
}

func (e *ends) leave(id string, told chan error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.waiting[id] = slices.DeleteFunc(e.waiting[id], func(c chan error) bool { return c == told })
	if len(e.waiting[id]) == 0 {
		delete(e.waiting, id)
	}
}

// tell wakes those who wait for a saga.
func (e *ends) tell(id string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.waiting[id] {
		select {
		case c <- err:
		default: // has been told
		}
	}
}

// look asks for all who wait, unless somebody has just done so.
func (e *ends) look(ctx context.Context, db sql.Querier) error {
	e.mu.Lock()
	if e.looking || time.Since(e.last) < lookEvery {
		e.mu.Unlock()
		return nil
	}
	e.looking = true
	ids := make([]string, 0, len(e.waiting))
	for id := range e.waiting {
		ids = append(ids, id)
	}
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		e.looking, e.last = false, time.Now()
		e.mu.Unlock()
	}()

	rows, err := db.Query(ctx, sql.SagaEnded, ids)
	if err != nil {
		return err
	}
	there := map[string]bool{}
	var id string
	var ended bool
	if _, err := pgx.ForEachRow(rows, []any{&id, &ended}, func() error {
		there[id] = true
		if ended {
			e.tell(id, nil)
		}
		return nil
	}); err != nil {
		return err
	}
	for _, id := range ids {
		if !there[id] {
			e.tell(id, ErrNotFound)
		}
	}
	return nil
}
