package pgengine_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/pgengine/pgenginetest"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// Sale is the input of the saga in docs/limits.md.
type Sale struct {
	Merchant string
	Cents    int64
}

func (Sale) SagaName() string { return "sale" }

type tolerantBank struct{}

func (tolerantBank) Charge(context.Context, string, int64) (string, error) { return "receipt", nil }

// Teller is what the page's step calls.
type Teller interface {
	Charge(ctx context.Context, key string, cents int64) (receipt string, err error)
}

// charging calls a bank that takes ten calls of a merchant at once, and two in a second.
func charging(bank Teller) pgengine.Activity[Sale, string] {
	return pgengine.Activity[Sale, string]{
		Name: "charge",
		Limit: pgengine.Limit[Sale]{
			Concurrency: 10, Rate: 2, Per: time.Second,
			Key: func(c pgengine.Call[Sale]) string { return c.Input.Merchant },
		},
		Do: func(ctx context.Context, c pgengine.Call[Sale]) (string, error) {
			return bank.Charge(ctx, c.Key(), c.Input.Cents)
		},
	}
}

// crowded calls a bank that takes twenty calls at once in all, one of each merchant, and a hundred in a minute.
func crowded(bank Teller) pgengine.Activity[Sale, string] {
	merchant := func(c pgengine.Call[Sale]) string { return c.Input.Merchant }
	return pgengine.Activity[Sale, string]{
		Name: "charge",
		Limit: pgengine.Limits(
			pgengine.Limit[Sale]{Name: "bank", Concurrency: 20, Rate: 100, Per: time.Minute},
			pgengine.Limit[Sale]{Name: "bank.merchant", Concurrency: 1, Key: merchant},
		),
		Do: func(ctx context.Context, c pgengine.Call[Sale]) (string, error) {
			return bank.Charge(ctx, c.Key(), c.Input.Cents)
		},
	}
}

// The page's steps are those that are compiled and run here.
func TestDocsOfLimits(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/limits.md")
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("example_limit_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, begins := range []string{"// charging calls", "// crowded calls"} {
		_, rest, _ := strings.Cut(string(example), begins)
		block, _, ok := strings.Cut(rest, "\n}\n")
		if !ok || !strings.Contains(string(page), "```go\n"+begins+block+"\n}\n```") {
			t.Errorf("the page's %s is not that of example_limit_test.go", begins)
		}
	}
	for name, step := range map[string]pgengine.Activity[Sale, string]{"10": charging(tolerantBank{}), "12": crowded(tolerantBank{})} {
		s := pgenginetest.NewSandbox(t, sqltest.New(t), pgengine.Saga[Sale]{Version: 1, Steps: pgengine.Steps[Sale](step)})
		freeze(t, s)
		for range 3 {
			s.Start(Sale{Merchant: "m"})
		}
		s.Run()
		// Of three calls, the third comes a second after the first, or 1.2 seconds.
		if took := queryInt(t, s.Engine.Pool(), `SELECT round(extract(epoch FROM max(ended_at) - min(ended_at)) * 10) FROM pgsagaz.step`); fmt.Sprint(took) != name {
			t.Errorf("the third call after %d tenths of a second, want %s", took, name)
		}
	}
}
