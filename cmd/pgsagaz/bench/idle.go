package bench

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/internal/pgmeter"
	"github.com/pgsagaz/pgsagaz/outbox/memorypub"
)

// idle watches a relay that has nothing to do.
func (b *outboxBench) idle(ctx context.Context) ([]Measure, error) {
	b.Progress(fmt.Sprintf("a relay that has nothing to do, for %v", b.Idle))
	var meter pgmeter.Meter
	config := b.config.Copy()
	meter.Attach(config.ConnConfig)
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	stop, err := b.relay(ctx, pool, memorypub.New(memorypub.Config{Discard: true}))
	if err != nil {
		return nil, err
	}
	defer func() { _ = stop() }()
	if err := pause(ctx, 3*time.Second); err != nil { // it joins, plans are made, and what earlier parts left is truncated
		return nil, err
	}
	pids, err := b.backends(ctx)
	if err != nil {
		return nil, err
	}
	client, server, n, begun := cpu([]int{os.Getpid()}), cpu(pids), meter.Trips.Load(), time.Now()
	if err := pause(ctx, b.Idle); err != nil {
		return nil, err
	}
	took := time.Since(begun)
	m := Measure{Name: "idle", What: fmt.Sprintf("round trips of a relay that has nothing to do, and what it and its %d backends take of a core, over %v", len(pids), b.Idle),
		PerSecond: float64(meter.Trips.Load()-n) / took.Seconds(),
		ClientCPU: 100 * (cpu([]int{os.Getpid()}) - client).Seconds() / took.Seconds(),
		ServerCPU: 100 * (cpu(pids) - server).Seconds() / took.Seconds()}
	return []Measure{m}, stop()
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// backends are the processes of Postgres that serve relays.
func (b *outboxBench) backends(ctx context.Context) (pids []int, err error) {
	rows, err := b.pool.Query(ctx, "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'pgsagaz outbox%'")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var pid int
		if err := rows.Scan(&pid); err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, rows.Err()
}

// cpu is the time that processes of this machine have computed so far; 0 where Linux does not say, or they are another machine's.
func cpu(pids []int) (total time.Duration) {
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		name, rest, ok := bytes.Cut(stat, []byte(") "))
		if !ok || pid != os.Getpid() && !bytes.Contains(name, []byte("(postgres")) {
			continue
		}
		fields := strings.Fields(string(rest)) // from the third on
		for _, ticks := range fields[11:13] {  // in user mode, in the kernel
			n, _ := strconv.Atoi(ticks)
			total += time.Duration(n) * 10 * time.Millisecond
		}
	}
	return total
}
