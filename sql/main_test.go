package sql_test

import (
	"context"
	"log/slog"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(migrateURL); url != "" {
		os.Exit(helpMigrate(url))
	}
	os.Exit(sqltest.Main(m))
}

func exec(t testing.TB, db sql.Querier, statement string, args ...any) {
	t.Helper()
	if _, err := db.Exec(t.Context(), statement, args...); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func query[T any](t testing.TB, db sql.Querier, statement string, args ...any) (value T) {
	t.Helper()
	if err := db.QueryRow(t.Context(), statement, args...).Scan(&value); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	return value
}

func list[T any](t testing.TB, db sql.Querier, statement string, args ...any) []T {
	t.Helper()
	rows, err := db.Query(t.Context(), statement, args...)
	if err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	values, err := pgx.CollectRows(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	return values
}

var silent = slog.New(slog.DiscardHandler)

func migrate(ctx context.Context, pool *pgxpool.Pool, steps int) error {
	return sql.Migrate(ctx, pool.Config().ConnConfig, &sql.MigrateOptions{Steps: steps, Logger: silent})
}

// schema says all there is in a schema, a line each, in words that do not name the schema.
func schema(t testing.TB, pool *pgxpool.Pool, name string) []string {
	t.Helper()
	return list[string](t, pool, `
		WITH rel AS (SELECT c.* FROM pg_class c WHERE c.relnamespace = to_regnamespace($1) AND c.relkind IN ('r', 'p', 'v', 'S'))
		SELECT replace(line, $1 || '.', '') FROM (
			SELECT format('%s %s %s', relkind, relname, reloptions) AS line FROM rel
			UNION ALL
			SELECT format('column %s.%s %s not null %s default %s identity %s generated %s', rel.relname, attname, format_type(atttypid, atttypmod),
			              attnotnull, pg_get_expr(adbin, adrelid), attidentity, attgenerated)
			FROM rel JOIN pg_attribute a ON attrelid = rel.oid AND attnum > 0 AND NOT attisdropped LEFT JOIN pg_attrdef d ON adrelid = attrelid AND adnum = attnum
			WHERE relkind <> 'S'
			UNION ALL
			SELECT pg_get_indexdef(indexrelid) FROM pg_index JOIN rel ON indrelid = rel.oid
			UNION ALL
			SELECT format('constraint %s.%s %s', rel.relname, conname, pg_get_constraintdef(c.oid)) FROM pg_constraint c JOIN rel ON conrelid = rel.oid
			UNION ALL
			SELECT 'trigger ' || pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN rel ON tgrelid = rel.oid AND NOT tgisinternal
			UNION ALL
			SELECT 'function ' || pg_get_functiondef(p.oid) FROM pg_proc p WHERE pronamespace = to_regnamespace($1)
			UNION ALL
			SELECT format('enum %s %s', typname, array_agg(enumlabel ORDER BY enumsortorder))
			FROM pg_type t JOIN pg_enum e ON enumtypid = t.oid WHERE typnamespace = to_regnamespace($1) GROUP BY typname
		) x ORDER BY 1`, name)
}

// same fails the test with the lines that only one of two lists has.
func same(t testing.TB, what string, got, want []string) {
	t.Helper()
	count := map[string]int{}
	for _, line := range want {
		count[line]++
	}
	for _, line := range got {
		count[line]--
	}
	for line, n := range count {
		switch {
		case n > 0:
			t.Errorf("%s: lacks %s", what, line)
		case n < 0:
			t.Errorf("%s: has too much: %s", what, line)
		}
	}
}
