package integration

import (
	"context"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/outbox/memorypub"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// TestScalingQueries: k8s/keda.yaml scales by what these say.
func TestScalingQueries(t *testing.T) {
	manifest, err := os.ReadFile("../k8s/keda.yaml")
	if err != nil {
		t.Fatal(err)
	}
	// A trigger's name, and its query in folded lines: those that are further in than the key.
	found := regexp.MustCompile(`name: ([a-z-]+)\n +metadata:\n        query: >-\n((?:          .*\n)+)`).FindAllStringSubmatch(string(manifest), -1)
	queries := map[string]string{}
	for _, f := range found {
		queries[f[1]] = strings.Join(strings.Fields(f[2]), " ")
	}
	if len(queries) != 2 || len(queries) != strings.Count(string(manifest), "query:") {
		t.Fatalf("keda.yaml holds the queries %v", queries)
	}

	pool := sqltest.New(t)
	ask := func(name string) (v float64) {
		t.Helper()
		// As KEDA does: one row of one column, a number.
		if err := pool.QueryRow(t.Context(), `SELECT (`+queries[name]+`)::float8`).Scan(&v); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, queries[name])
		}
		return v
	}
	if n, age := ask("pending"), ask("oldest-pending"); n != 0 || age != 0 {
		t.Errorf("an empty outbox: %v pending, for %v s", n, age)
	}
	if err := sql.InTx(t.Context(), pool, func(tx pgx.Tx) error {
		return outbox.Publish(t.Context(), tx, outbox.JSON("t", "a", 1), outbox.JSON("t", "b", 2), outbox.JSON("u", "c", 3))
	}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond)
	if n, age := ask("pending"), ask("oldest-pending"); n != 3 || age < 0.02 || age > 60 {
		t.Errorf("three messages: %v pending, for %v s", n, age)
	}

	publisher := memorypub.New(memorypub.Config{})
	relay, err := outbox.NewRelay(pool, publisher, outbox.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- relay.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	for deadline := time.Now().Add(20 * time.Second); ask("pending") > 0 || ask("oldest-pending") > 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("all are published, and %v are pending", ask("pending"))
		}
	}
}
