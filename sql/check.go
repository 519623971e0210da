package sql

import (
	"context"
	"embed"
	"fmt"
	"path"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

//go:embed queries/check_*.sql
var checkFiles embed.FS

// Violation is a row that must not exist.
type Violation struct {
	Rule    string `json:"rule"`    // the check's name
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
	entries, err := checkFiles.ReadDir("queries")
	if err != nil {
		return nil, err
	}
	var found []Violation
	err = pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		// Compiling these one-off statements costs ten times what they do.
		if _, err := tx.Exec(ctx, "SET LOCAL jit = off"); err != nil {
			return err
		}
		for _, e := range entries {
			body, err := checkFiles.ReadFile(path.Join("queries", e.Name()))
			if err != nil {
				return err
			}
			rule := strings.TrimSuffix(strings.TrimPrefix(e.Name(), "check_"), ".sql")
			rows, err := tx.Query(ctx, "SELECT * FROM ("+string(body)+") AS found(saga_id, step, problem) LIMIT 100")
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
