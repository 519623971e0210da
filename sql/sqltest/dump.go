package sqltest

import (
	"bytes"
	"encoding/hex"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Dump is all that the tables of a database hold, as text, bytes as they are: to look for what must not be
// there.
func Dump(t testing.TB, pool *pgxpool.Pool) string {
	t.Helper()
	rows, err := pool.Query(t.Context(), `SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) FROM pg_tables
		WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(tables) < 20 {
		t.Fatalf("%d tables, %v", len(tables), err)
	}
	var all bytes.Buffer
	for _, table := range tables {
		all.WriteString("\n" + table + "\n")
		rows, err := pool.Query(t.Context(), "SELECT * FROM "+table, pgx.QueryExecModeSimpleProtocol)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			for _, v := range rows.RawValues() {
				if digits, ok := bytes.CutPrefix(v, []byte(`\x`)); ok {
					if raw, err := hex.AppendDecode(nil, digits); err == nil {
						v = raw
					}
				}
				all.Write(v)
				all.WriteByte('\t')
			}
			all.WriteByte('\n')
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
	}
	return all.String()
}
