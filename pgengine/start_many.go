package pgengine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/internal/tracing"
	"github.com/pgsagaz/pgsagaz/sql"
)

// What a statement of StartMany takes at most: it is held in memory, here and there.
const (
	startsAtOnce      = 1000
	startsAtOnceBytes = 16 << 20
)

// StartItem is one of the sagas that [Engine.StartMany] starts.
type StartItem struct {
	Input Input
	Key   string // as that of [StartOptions]; "": none
}

// StartMany starts a saga for each item, in the caller's transaction, as [Engine.Start] does for one, and gives them in the order of
// the items. All are of one name, and share the options, whose Key must be empty. An item whose key has come before, among
// them or at any time, is the saga of then.
//
// Errors: as Start, naming the index of the item, or its key.
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
	name, subjects, err := lookThrough(items, opts)
	if err != nil {
		return nil, fmt.Errorf("start many: %w", err)
	}
	ctx, span := e.startSpan(ctx, name, opts.TraceParent)
	defer func() { endStartMany(span, all, err) }()
	fail := func(err error) ([]Started, error) {
		return nil, fmt.Errorf("start many: saga %s: %w", name, named(err))
	}
	// In their order, as what is new of them is written: two that started sagas of the same ones would wait for each other.
	for _, subject := range subjects {
		if _, err := e.codec.KeyOf(ctx, tx, subject); err != nil {
			return fail(err)
		}
	}
	// By key, for the same reason. Without keys it is their own order.
	order := make([]int, len(items))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return strings.Compare(items[a].Key, items[b].Key) })
	load := startLoad{e: e, tx: tx, name: name, as: e.terms(name, opts), all: make([]Started, len(items))}
	for _, i := range order {
		raw, subject, err := marshalInput(items[i].Input, opts)
		if err == nil && len(raw) > e.maxPayload {
			err = fmt.Errorf("%w: input of %d bytes, the limit is %d", ErrTooLarge, len(raw), e.maxPayload)
		}
		if err == nil {
			raw, err = e.sealInput(ctx, tx, name, raw, subject, items[i].Key != "")
		}
		if err != nil {
			return fail(fmt.Errorf("item %d: %w", i, err))
		}
		if len(load.at) == startsAtOnce || load.bytes+len(raw) > startsAtOnceBytes {
			if err := load.send(ctx); err != nil {
				return fail(err)
			}
		}
		if err := load.add(i, raw, items[i].Key); err != nil {
			return fail(err)
		}
	}
	if err := load.send(ctx); err != nil {
		return fail(err)
	}
	fresh := 0
	for _, s := range load.all {
		if !s.Existed {
			fresh++
		}
	}
	e.metrics.started.WithLabelValues(name).Add(float64(fresh))
	if e.waker != nil && fresh > 0 {
		sql.WakeLater(tx.Conn(), defaultQueue)
	}
	return load.all, nil
}

// lookThrough gives the items' one name, and whose they are, sorted.
func lookThrough(items []StartItem, opts *StartOptions) (name string, subjects []string, err error) {
	seen := map[string]bool{}
	for i, item := range items {
		of, err := inputName(item.Input)
		if err != nil {
			return "", nil, fmt.Errorf("item %d: %w", i, err)
		}
		if i > 0 && of != name {
			return "", nil, fmt.Errorf("item %d is of saga %s, and those before it of %s", i, of, name)
		}
		name = of
		if len(item.Key) > maxKey {
			return "", nil, fmt.Errorf("item %d: its key has %d bytes, at most %d are allowed", i, len(item.Key), maxKey)
		}
		subject := opts.Subject
		if subject == "" {
			if subject, err = subjectOf(item.Input); err != nil {
				return "", nil, fmt.Errorf("item %d: %w", i, err)
			}
		}
		seen[subject] = true
	}
	return name, slices.Sorted(maps.Keys(seen)), nil
}

// startLoad is what a statement of StartMany starts.
type startLoad struct {
	e    *Engine
	tx   pgx.Tx
	name string
	as   terms
	all  []Started // what came of it, by item

	at          []int // items
	ids, inputs []string
	keys        []*string
	keyed       bool
	bytes       int
	longest     int
}

func (l *startLoad) add(item int, raw []byte, key string) error {
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	l.at, l.ids, l.inputs, l.keys = append(l.at, item), append(l.ids, id.String()), append(l.inputs, string(raw)), append(l.keys, optional(key))
	l.keyed, l.bytes, l.longest = l.keyed || key != "", l.bytes+len(raw), max(l.longest, len(raw))
	return nil
}

// send starts what was added, and forgets it.
func (l *startLoad) send(ctx context.Context) error {
	keys := l.keys
	if !l.keyed {
		keys = nil
	}
	rows, err := l.tx.Query(ctx, sql.StartMany, l.name, l.ids, l.inputs, keys, l.as.tags, l.as.version, l.as.timeout,
		optional(tracing.Of(ctx)), max(l.e.maxPayload, l.longest), l.as.registered)
	if err != nil {
		return err
	}
	started, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Started])
	if err != nil {
		return err
	}
	for n, i := range l.at {
		l.all[i] = started[n]
	}
	l.at, l.ids, l.inputs, l.keys, l.keyed, l.bytes, l.longest = nil, nil, nil, nil, false, 0, 0
	return nil
}
