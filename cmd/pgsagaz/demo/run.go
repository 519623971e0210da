package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
)

// Options are what a run is like. Set all fields; those of a default demo are in the command line's table.
type Options struct {
	Orders   int
	FailRate float64 // of the orders that cannot succeed, from 0 to 1
	Workers  int
	Faults   Faults

	// Spawn makes the command of a worker process with that id, which works Fulfil and ends when its
	// standard input does. nil: workers are part of this process, and none is killed.
	Spawn func(id string) Process
	Kills int // how often a worker process is killed while it works

	// Keep goes on afterwards, with an order a second, until ctx ends; the audit comes then.
	Keep bool
	// Beside runs as long as the demo does, and ends with its ctx. nil: nothing.
	Beside func(ctx context.Context, engine *pgengine.Engine) error

	Screen   io.Writer // where to show what happens; nil: nowhere
	Terminal bool      // Screen is one: lines are redrawn
	Logger   *slog.Logger

	beforeAudit func(context.Context, *pgxpool.Pool) error // for tests: somebody tampers with the books
}

// UsualFaults are those of a service that has a bad day.
var UsualFaults = Faults{Before: 0.06, After: 0.06, Slow: 0.03}

// stall is how long nothing may happen before a run is given up, and audited as it stands.
const stall = 30 * time.Second

// Run is a demo from its tables to its audit, on the database at url. Its error says that the run could
// not take place; what the audit found is in the report.
func Run(ctx context.Context, url string, o Options) (_ *Report, err error) {
	pool, err := openPool(ctx, url)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	if err := sql.Migrate(ctx, pool.Config().ConnConfig, &sql.MigrateOptions{Logger: slog.New(slog.DiscardHandler)}); err != nil {
		return nil, err
	}
	if err := install(ctx, pool); err != nil {
		return nil, err
	}
	bankPool, err := openPool(ctx, url)
	if err != nil {
		return nil, err
	}
	defer bankPool.Close()
	bank, err := openBank(bankPool, o.Faults, o.Logger)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, bank.shut(context.WithoutCancel(ctx))) }()

	engine, err := pgengine.New(pool, pgengine.Config{Sagas: []pgengine.Definition{Fulfil(&BankClient{}, Mail{Busy: 0.1})}, Logger: o.Logger})
	if err != nil {
		return nil, err
	}
	if err := engine.Register(ctx); err != nil {
		return nil, err
	}
	r := &run{
		Options: o, id: runID(), pool: pool, engine: engine, bank: bank,
		screen: newScreen(o.Screen, o.Terminal),
	}
	return r.run(ctx)
}

func openPool(ctx context.Context, url string) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.MaxConns = 12
	return pgxpool.NewWithConfig(ctx, config)
}

// run is one run under way.
type run struct {
	Options
	id     string
	pool   *pgxpool.Pool
	engine *pgengine.Engine
	bank   *bank
	screen *screen
	fleet  *fleet
	killer *killer // nil: nobody is killed
}

// runID sorts by time, and is short enough to be typed.
func runID() string {
	return time.Now().UTC().Format("0102-150405") + fmt.Sprintf("-%04x", rand.IntN(1<<16))
}

// tag is what the run's sagas are found by.
func (r *run) tag() string { return "demo:" + r.id }

func (r *run) run(ctx context.Context) (_ *Report, err error) {
	orders := r.makeOrders(0, r.Orders)
	if err := r.stockUp(ctx, orders); err != nil {
		return nil, fmt.Errorf("fill the shelves: %w", err)
	}
	r.fleet = newFleet(r)
	defer r.fleet.stop()
	if err := r.fleet.start(ctx, r.Workers); err != nil {
		return nil, err
	}
	if r.Beside != nil {
		beside, stop := context.WithCancel(context.WithoutCancel(ctx))
		var fail context.CancelFunc
		ctx, fail = context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() {
			ended <- r.Beside(beside, r.engine)
			fail() // the demo does not go on without it
		}()
		defer func() { stop(); err = errors.Join(err, <-ended) }()
	}
	r.screen.event("run %s: %d orders, %d of them can't succeed; %s", r.id, len(orders), doomed(orders), r.fleet)

	group, gctx := errgroup.WithContext(ctx)
	watched, done := context.WithCancel(gctx)
	defer done()
	if r.Spawn != nil && r.Kills > 0 {
		r.killer = newKiller(r)
		group.Go(func() error { return r.killer.run(gctx) })
	}
	group.Go(func() error { return r.place(gctx, orders) })
	group.Go(func() error { defer done(); return r.watch(gctx, len(orders)) })
	group.Go(func() error { return r.fleet.guard(watched) })
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if r.Keep {
		if err := r.trickle(ctx, len(orders)); err != nil {
			return nil, err
		}
		ctx = context.WithoutCancel(ctx) // the audit is what it was stopped for
	}
	r.fleet.stop()
	if err := r.bank.shut(ctx); err != nil {
		return nil, fmt.Errorf("wait for the bank: %w", err)
	}
	if r.beforeAudit != nil {
		if err := r.beforeAudit(ctx, r.pool); err != nil {
			return nil, err
		}
	}
	return r.report(ctx)
}

// placed is an order and why it cannot succeed; "": it can.
type placed struct {
	Order
	doomed string
}

func doomed(orders []placed) (n int) {
	for _, o := range orders {
		if o.doomed != "" {
			n++
		}
	}
	return n
}

// makeOrders makes n orders, after so many others. It spreads those that cannot succeed evenly, and gives them their reasons in turn.
func (r *run) makeOrders(before, n int) []placed {
	orders := make([]placed, n)
	share, reason := 0.0, 0
	for i := range orders {
		o := placed{Order: Order{
			ID: fmt.Sprintf("%s-%05d", r.id, before+i+1), Run: r.id,
			SKU: fmt.Sprintf("book-%d", 1+rand.IntN(8)), Quantity: 1 + rand.IntN(3), Cents: 500 + rand.Int64N(9500),
			Card: Card{Bank: r.bank.url, Number: "card-0001"}, Email: fmt.Sprintf("reader-%d@example.com", i+1), Address: "Paris",
		}}
		if share += r.FailRate; share >= 1-1e-9 {
			share--
			switch reason++; reason % 3 {
			case 0:
				o.doomed, o.SKU = "out of stock", soldOut
			case 1:
				o.doomed, o.Address = "no parcel leaves", farAway
			case 2:
				o.doomed, o.Card.Number = "card declined", emptyCard
			}
		}
		orders[i] = o
	}
	return orders
}

// stockUp puts as much on the shelves as is ordered, and a little more.
func (r *run) stockUp(ctx context.Context, orders []placed) error {
	need := map[string]int{soldOut: 0}
	for _, o := range orders {
		if o.SKU != soldOut {
			need[o.SKU] += o.Quantity
		}
	}
	b := &pgx.Batch{}
	for sku, n := range need {
		if sku != soldOut {
			n += 10
		}
		b.Queue(`INSERT INTO demo.stock (run, sku, initial, on_shelf) VALUES ($1, $2, $3, $3)
			ON CONFLICT (run, sku) DO UPDATE SET initial = demo.stock.initial + $3, on_shelf = demo.stock.on_shelf + $3`, r.id, sku, n)
	}
	return r.pool.SendBatch(ctx, b).Close()
}

// place starts a saga an order, each in the transaction that writes the order. With a killer it takes
// its time, so that workers die while there is work.
func (r *run) place(ctx context.Context, orders []placed) error {
	const together = 10
	var pace time.Duration
	if r.killer != nil {
		pace = time.Duration(r.Kills+1) * killEvery / time.Duration(max(1, len(orders)/together))
	}
	for i := 0; i < len(orders); i += together {
		err := sql.InTx(ctx, r.pool, func(tx pgx.Tx) error {
			b := &pgx.Batch{}
			for _, o := range orders[i:min(i+together, len(orders))] {
				s, err := r.engine.Start(ctx, tx, o.Order, &pgengine.StartOptions{Key: o.ID, Tags: []string{r.tag()}})
				if err != nil {
					return err
				}
				b.Queue(`INSERT INTO demo.orders (id, run, saga_id, sku, quantity, cents, doomed) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
					o.ID, r.id, s.ID, o.SKU, o.Quantity, o.Cents, o.doomed)
			}
			return tx.SendBatch(ctx, b).Close()
		})
		if err != nil {
			return fmt.Errorf("place orders: %w", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pace):
		}
	}
	return nil
}

// trickle places an order a second until ctx ends, and waits for what it has placed.
func (r *run) trickle(ctx context.Context, before int) error {
	r.screen.event("an order a second, until interrupted")
	group, gctx := errgroup.WithContext(ctx)
	placed := before
	group.Go(func() error {
		for {
			orders := r.makeOrders(placed, 100)
			if err := r.stockUp(gctx, orders); err != nil {
				return err
			}
			for i := range orders {
				select {
				case <-gctx.Done():
					return gctx.Err()
				case <-time.After(time.Second):
				}
				if err := r.place(context.WithoutCancel(gctx), orders[i:i+1]); err != nil {
					return err
				}
				placed++
			}
		}
	})
	group.Go(func() error { return r.fleet.guard(gctx) })
	if err := group.Wait(); ctx.Err() == nil {
		return err
	}
	r.Orders = placed // what the audit is to find
	return r.watch(context.WithoutCancel(ctx), placed)
}

// watch shows how many sagas are in which state until all orders have ended, or nothing happens any more.
func (r *run) watch(ctx context.Context, orders int) error {
	var last string
	changed := time.Now()
	for {
		counts := map[pgengine.State]int{}
		rows, err := r.pool.Query(ctx, `SELECT state, count(*) FROM pgsagaz.saga WHERE tags @> ARRAY[$1] GROUP BY state`, r.tag())
		if err == nil {
			var state pgengine.State
			var n int
			_, err = pgx.ForEachRow(rows, []any{&state, &n}, func() error { counts[state] = n; return nil })
		}
		if err != nil {
			return fmt.Errorf("count sagas: %w", err)
		}
		started := 0
		for _, n := range counts {
			started += n
		}
		ended := counts[pgengine.Completed] + counts[pgengine.Compensated]
		line := fmt.Sprintf("%d/%d placed   %d running   %d turning back   %d completed   %d compensated", started, orders,
			counts[pgengine.Running], counts[pgengine.Failing]+counts[pgengine.Compensating]+counts[pgengine.Stuck],
			counts[pgengine.Completed], counts[pgengine.Compensated])
		r.screen.status(progressBar(ended, orders), line, r.bank.counted().String())
		if line != last {
			last, changed = line, time.Now()
		}
		if ended == orders {
			return nil
		}
		if time.Since(changed) > stall {
			r.screen.event("nothing has happened for %v, giving up", stall)
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (c BankCalls) String() string {
	return fmt.Sprintf("bank: %d calls, %d failed, %d answers lost, %d too slow, %d declined", c.Calls, c.FailedBefore, c.AnswersLost, c.Slow, c.Declined)
}

func progressBar(done, all int) string {
	const width = 50
	full := width * done / max(all, 1)
	return fmt.Sprintf("[%s%s] %3d%%", strings.Repeat("#", full), strings.Repeat(".", width-full), 100*done/max(all, 1))
}
