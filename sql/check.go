package sql

import (
	"cmp"
	"context"
	"embed"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

//go:embed queries/check_*.sql queries/overdue_*.sql
var ruleFiles embed.FS

// Violation is a row that must not exist.
type Violation struct {
	Rule    string `json:"rule"`    // the check's name; overdue_... is one of [Overdue]
	SagaID  string `json:"saga_id"` // "": it is no saga's
	Step    string `json:"step,omitempty"`
	Problem string `json:"problem"`
}

func (v Violation) String() string {
	switch {
	case v.SagaID == "":
		return fmt.Sprintf("%s: %s", v.Rule, v.Problem)
	case v.Step == "":
		return fmt.Sprintf("%s: saga %s %s", v.Rule, v.SagaID, v.Problem)
	}
	return fmt.Sprintf("%s: saga %s step %s: %s", v.Rule, v.SagaID, v.Step, v.Problem)
}

// Check looks for rows that must not exist, by all the rules of queries/check_*.sql, in one snapshot, so
// that it may run while sagas do. It returns what it finds, at most 100 rows a rule.
func Check(ctx context.Context, pool *pgxpool.Pool) ([]Violation, error) {
	return look(ctx, pool, "check_")
}

// Overdue looks for what a fleet that runs would have dealt with: lanes that nobody will look at, leases that ended and
// deadlines that passed, messages that nobody publishes, partitions that nobody makes. It goes by the rules of
// queries/overdue_*.sql, and leaves out what has been so for less than patience; below some leases and retries that is no news. 0: a minute.
func Overdue(ctx context.Context, pool *pgxpool.Pool, patience time.Duration) ([]Violation, error) {
	return look(ctx, pool, "overdue_", cmp.Or(patience, DefaultPatience))
}

// DefaultPatience is how long [Overdue] and [Repair] let things be.
const DefaultPatience = time.Minute

// look goes through the rules whose files begin with prefix. They read only, and lock nothing.
func look(ctx context.Context, pool *pgxpool.Pool, prefix string, args ...any) ([]Violation, error) {
	files, err := ruleFiles.ReadDir("queries")
	if err != nil {
		return nil, err
	}
	var found []Violation
	err = pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		// Compiling these one-off statements costs ten times what they do.
		if _, err := tx.Exec(ctx, "SET LOCAL jit = off"); err != nil {
			return err
		}
		for _, f := range files {
			if !strings.HasPrefix(f.Name(), prefix) {
				continue
			}
			body, err := ruleFiles.ReadFile(path.Join("queries", f.Name()))
			if err != nil {
				return err
			}
			rule := strings.TrimSuffix(strings.TrimPrefix(f.Name(), "check_"), ".sql")
			rows, err := tx.Query(ctx, "SELECT * FROM ("+string(body)+") AS found(saga_id, step, problem) LIMIT 100", args...)
			if err != nil {
				return fmt.Errorf("check %s: %w", rule, err)
			}
			vs, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Violation, error) {
				v := Violation{Rule: rule}
				return v, row.Scan(&v.SagaID, &v.Step, &v.Problem)
			})
			if err != nil {
				return fmt.Errorf("check %s: %w", rule, err)
			}
			found = append(found, vs...)
		}
		return nil
	})
	return found, err
}
