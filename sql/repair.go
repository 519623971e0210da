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

//go:embed queries/repair_*.sql
var repairFiles embed.FS

// RepairOptions say who repairs, and why. The zero value of each field is its default.
type RepairOptions struct {
	Patience time.Duration // what is overdue for less is left alone; 0: [DefaultPatience]
	Actor    string        // "": as whom he comes to the database
	Reason   string
}

// Repaired is something that [Repair] has set right.
type Repaired struct {
	Rule   string `json:"rule"`    // of [Check] or [Overdue], that found it
	SagaID string `json:"saga_id"` // "": it is no saga's
	Saga   string `json:"saga,omitempty"`
	Step   string `json:"step,omitempty"`
	Did    string `json:"did"`
}

func (r Repaired) String() string {
	if r.SagaID == "" {
		return fmt.Sprintf("%s: %s", r.Rule, r.Did)
	}
	return fmt.Sprintf("%s: saga %s: %s", r.Rule, r.SagaID, r.Did)
}

// Repair sets right what can be set right without a risk, by queries/repair_*.sql, in one transaction: hints are given again, what
// dead workers and relays hold is freed, sagas that were forgotten are planned anew, rows that nothing refers to go. At worst a step
// is tried or a message sent once more, as may happen at any time. It undoes nothing, gives up nothing, and moves no result;
// what it leaves is a person's to look at. Each repair stands in the audit. All this may be done while workers run.
func Repair(ctx context.Context, pool *pgxpool.Pool, opts RepairOptions) (done []Repaired, err error) {
	files, err := repairFiles.ReadDir("queries")
	if err != nil {
		return nil, err
	}
	err = InTx(ctx, pool, func(tx pgx.Tx) error {
		for _, f := range files {
			body, err := repairFiles.ReadFile(path.Join("queries", f.Name()))
			if err != nil {
				return err
			}
			rule := strings.TrimSuffix(strings.TrimPrefix(f.Name(), "repair_"), ".sql")
			rows, err := tx.Query(ctx, string(body), cmp.Or(opts.Patience, DefaultPatience))
			if err != nil {
				return fmt.Errorf("repair %s: %w", rule, err)
			}
			did, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Repaired, error) {
				r := Repaired{Rule: rule}
				return r, row.Scan(&r.SagaID, &r.Saga, &r.Step, &r.Did)
			})
			if err != nil {
				return fmt.Errorf("repair %s: %w", rule, err)
			}
			for _, r := range did {
				if _, err := tx.Exec(ctx, AuditRepair, r.SagaID, r.Saga, r.Step, opts.Actor, opts.Reason, r.Rule, r.Did); err != nil {
					return fmt.Errorf("repair %s: audit: %w", rule, err)
				}
			}
			done = append(done, did...)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return done, nil
}
