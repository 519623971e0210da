package bench

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/jackc/pgx/v5/pgxpool"
)

// profile writes into a directory what the engine's rounds were spent on: a CPU profile of this process for each round, and
// the statements of all of them that took Postgres longest. The floor's rounds are not in it. nil: nothing is written.
type profile struct {
	dir, name  string // name begins those of the files
	pool       *pgxpool.Pool
	statements map[int64]statement
	missing    error // why Postgres cannot tell of statements
}

// statement is what pg_stat_statements tells of one, times in milliseconds.
type statement struct {
	query             string
	calls, plan, exec float64
}

// newProfile gives nil if o asks for none.
func newProfile(ctx context.Context, o Options, g *gauge, name string, concurrency int) (*profile, error) {
	if o.Profile == "" || g == nil {
		return nil, nil
	}
	if err := os.MkdirAll(o.Profile, 0o755); err != nil {
		return nil, fmt.Errorf("profile: %w", err)
	}
	name = strings.Join(strings.FieldsFunc(name, func(r rune) bool { return r == ' ' || r == ',' }), "-")
	p := &profile{dir: o.Profile, name: fmt.Sprintf("%s-%d", name, concurrency), pool: g.pool, statements: map[int64]statement{}}
	_, p.missing = p.pool.Exec(ctx, "CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
	return p, nil
}

// begin starts a round's profile; end writes it.
func (p *profile) begin(ctx context.Context, round int) (end func() error, err error) {
	if p == nil {
		return func() error { return nil }, nil
	}
	before := p.read(ctx)
	file, err := os.Create(filepath.Join(p.dir, fmt.Sprintf("%s-round%d.pprof", p.name, round+1)))
	if err != nil {
		return nil, fmt.Errorf("profile: %w", err)
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		return nil, errors.Join(fmt.Errorf("profile: %w", err), file.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		for id, after := range p.read(ctx) {
			sum := p.statements[id]
			sum.query = after.query
			sum.calls += after.calls - before[id].calls
			sum.plan += after.plan - before[id].plan
			sum.exec += after.exec - before[id].exec
			p.statements[id] = sum
		}
		return file.Close()
	}, nil
}

func (p *profile) read(ctx context.Context) map[int64]statement {
	all := map[int64]statement{}
	if p.missing != nil {
		return all
	}
	rows, err := p.pool.Query(ctx, `SELECT queryid, min(query), sum(calls)::float8, sum(total_plan_time), sum(total_exec_time) FROM pg_stat_statements
		WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND queryid IS NOT NULL GROUP BY queryid`)
	if err != nil {
		p.missing = err
		return all
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		var s statement
		if p.missing = rows.Scan(&id, &s.query, &s.calls, &s.plan, &s.exec); p.missing != nil {
			return all
		}
		all[id] = s
	}
	p.missing = rows.Err()
	return all
}

// shown is how many statements are written down.
const shown = 40

// write makes the file of the statements. units: how often the work was done in all rounds.
func (p *profile) write(units float64) error {
	if p == nil {
		return nil
	}
	var b bytes.Buffer
	if p.missing != nil {
		fmt.Fprintf(&b, "Postgres did not tell of its statements: %v\nIt does with shared_preload_libraries = 'pg_stat_statements', of all of them to a role in pg_read_all_stats.\n", p.missing)
	} else {
		all := make([]statement, 0, len(p.statements))
		for _, s := range p.statements {
			if s.calls > 0 {
				all = append(all, s)
			}
		}
		slices.SortFunc(all, func(a, b statement) int { return cmp.Compare(b.plan+b.exec, a.plan+a.exec) })
		w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(w, "us each\tof it planning\tcalls each\t  statement")
		for _, s := range all[:min(len(all), shown)] {
			query := strings.Join(strings.Fields(s.query), " ")
			fmt.Fprintf(w, "%.1f\t%.1f\t%.2f\t  %s\n", 1000*(s.plan+s.exec)/units, 1000*s.plan/units, s.calls/units, query)
		}
		if err := w.Flush(); err != nil {
			return fmt.Errorf("profile: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(p.dir, p.name+".sql.txt"), b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	return nil
}
