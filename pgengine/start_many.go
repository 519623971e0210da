package pgengine

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/internal/tracing"
	"github.com/pgsagaz/pgsagaz/sql"
)

// startsAtOnce is how many sagas a statement of StartMany starts, at most: what it sends is held in memory, here and there.
const startsAtOnce = 1000

// StartItem is one of the sagas that [Engine.StartMany] starts.
type StartItem struct {
	Input Input
	Key   string // as that of [StartOptions]; "": none
}

// StartMany starts a saga for each item, in the caller's transaction, as [Engine.Start] does for one, and gives them in the order of
// the items. All are of one name, and share the options, whose Key must be empty. An item whose key has come before, among them or at any time, is the saga
// of then.
//
// Errors: as Start, and with the index of the item.
func (e *Engine) StartMany(ctx context.Context, tx pgx.Tx, items []StartItem, opts *StartOptions) (all []Started, err error) {
	if opts == nil {
		opts = &StartOptions{}
	}
	if opts.Key != "" {
		return nil, fmt.Errorf("start many: the key %q stands in the options: each item has its own", opts.Key)
	}
	if len(items) == 0 {
		return nil, nil
	}
	var name string
	for i, item := range items {
		of, err := inputName(item.Input)
		if err != nil {
			return nil, fmt.Errorf("start many: item %d: %w", i, err)
		}
		if i > 0 && of != name {
			return nil, fmt.Errorf("start many: item %d is of saga %s, and those before it of %s", i, of, name)
		}
		name = of
	}
	ctx, span := e.startSpan(ctx, name, opts.TraceParent)
	defer func() { endStartMany(span, all, err) }()
	// By key: two that started the same ones in another order would wait for each other. Without keys it is their own order.
	order := make([]int, len(items))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return strings.Compare(items[a].Key, items[b].Key) })
	all = make([]Started, len(items))
	for some := range slices.Chunk(order, startsAtOnce) {
		if err := e.startSome(ctx, tx, name, items, some, all, opts); err != nil {
			return nil, fmt.Errorf("start many: saga %s: %w", name, err)
		}
	}
	fresh := 0
	for _, s := range all {
		if !s.Existed {
			fresh++
		}
	}
	e.metrics.started.WithLabelValues(name).Add(float64(fresh))
	if e.waker != nil && fresh > 0 {
		sql.WakeLater(tx.Conn(), defaultQueue)
	}
	return all, nil
}

// startSome starts some of the items, by their indexes, with one statement, and puts what it started into all.
func (e *Engine) startSome(ctx context.Context, tx pgx.Tx, name string, items []StartItem, some []int, all []Started, opts *StartOptions) error {
	ids, inputs, keys := make([]string, len(some)), make([]string, len(some)), make([]*string, len(some))
	longest := 0
	for n, i := range some {
		raw, subject, err := marshalInput(items[i].Input, opts)
		if err == nil && len(raw) > e.maxPayload {
			err = fmt.Errorf("%w: input of %d bytes, the limit is %d", ErrTooLarge, len(raw), e.maxPayload)
		}
		if err == nil {
			raw, err = e.sealInput(ctx, tx, name, raw, subject, items[i].Key != "")
		}
		if err != nil {
			return fmt.Errorf("item %d: %w", i, err)
		}
		id, err := uuid.NewV7()
		if err != nil {
			return err
		}
		ids[n], inputs[n], keys[n] = id.String(), string(raw), optional(items[i].Key)
		longest = max(longest, len(raw))
	}
	if items[some[len(some)-1]].Key == "" { // the last in order: none has one
		keys = nil
	}
	as := e.terms(name, opts)
	rows, err := tx.Query(ctx, sql.StartMany, name, ids, inputs, keys, as.tags, as.version, as.timeout,
		optional(tracing.Of(ctx)), max(e.maxPayload, longest), as.registered)
	if err != nil {
		return named(err)
	}
	started, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Started])
	if err != nil {
		return named(err)
	}
	for n, i := range some {
		all[i] = started[n]
	}
	return nil
}
