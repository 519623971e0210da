package sql_test

import (
	"context"
	dbsql "database/sql"
	"fmt"
	"net/url"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib" // as a service has it

	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// placeOrder is the example of docs/sql.md, which TestTheSQLPage compares with this file.
func placeOrder(ctx context.Context, db *dbsql.DB, input string) (saga, state string, err error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return "", "", err
	}
	defer tx.Rollback()
	// The service's own writes go here, in the same transaction.
	if err := tx.QueryRowContext(ctx, `SELECT id FROM pgsagaz.start('order', $1, p_key => $2)`, input, "go-1").Scan(&saga); err != nil {
		return "", "", err
	}
	if _, err := tx.ExecContext(ctx, `SELECT pgsagaz.publish('orders.placed', $1, p_key => $2)`, []byte(input), "o-1"); err != nil {
		return "", "", err
	}
	if err := tx.Commit(); err != nil {
		return "", "", err
	}
	if _, err := db.ExecContext(ctx, `SELECT pgsagaz.signal($1, 'paid', '{"cents": 4200}')`, saga); err != nil {
		return "", "", err
	}
	err = db.QueryRowContext(ctx, `SELECT state FROM pgsagaz.status($1)`, saga).Scan(&state)
	return saga, state, err
}

// TestTheSQLPage runs the examples of docs/sql.md, each as a login that has pgsagaz_app and nothing else.
func TestTheSQLPage(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../docs/sql.md")
	if err != nil {
		t.Fatal(err)
	}
	block := func(language string) string {
		_, after, ok := strings.Cut(string(raw), "```"+language+"\n")
		body, _, closed := strings.Cut(after, "```\n")
		if !ok || !closed {
			t.Fatalf("docs/sql.md has no example in %s", language)
		}
		return body
	}
	pool := sqltest.New(t)
	exec(t, pool, `INSERT INTO pgsagaz.definition (name, version, graph) VALUES ('order', 1,
		'{"steps": [{"name": "pay", "kind": "await", "after": [], "signal": "paid"}], "output": "pay"}')`)
	app := granted(t, pool, func(r sql.Roles) string { return r.App })
	exec(t, pool, fmt.Sprintf(`GRANT TEMPORARY ON DATABASE %q TO %q`, app.Config().Database, app.Config().User))
	address := url.URL{
		Scheme: "postgres", User: url.UserPassword(app.Config().User, app.Config().Password),
		Host: fmt.Sprintf("%s:%d", app.Config().Host, app.Config().Port), Path: app.Config().Database,
	}
	if strings.HasPrefix(app.Config().Host, "/") { // a socket
		address.Host, address.RawQuery = "", fmt.Sprintf("host=%s&port=%d", url.QueryEscape(app.Config().Host), app.Config().Port)
	}
	dir := t.TempDir()
	file := func(name, body string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ran := func(what string, command *osexec.Cmd, wanted string) {
		t.Helper()
		command.Env = append(os.Environ(), "DATABASE_URL="+address.String(), fmt.Sprintf("JDBC_URL=jdbc:postgresql://%s/%s?user=%s&password=%s",
			address.Host, app.Config().Database, url.QueryEscape(app.Config().User), url.QueryEscape(app.Config().Password)))
		out, err := command.CombinedOutput()
		if err != nil || !strings.Contains(string(out), wanted) {
			t.Errorf("%s: %v\n%s", what, err, out)
		}
	}

	source, err := os.ReadFile("page_test.go")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(strings.ReplaceAll(string(source), "dbsql.DB", "sql.DB"), block("go")) {
		t.Error("the Go example of docs/sql.md is not the one that is tested here")
	}
	db, err := dbsql.Open("pgx", address.String())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if id, state, err := placeOrder(t.Context(), db, `{"ID": "o-1"}`); err != nil || state != "running" || id == "" {
		t.Errorf("Go: %q %q %v", id, state, err)
	}
	want := 1

	if psql, err := osexec.LookPath("psql"); err == nil {
		ran("psql", osexec.Command(psql, "-X", "-v", "ON_ERROR_STOP=1", "-f", file("example.sql", block("sql")), address.String()), "running | f")
		want++
	} else {
		t.Log("there is no psql")
	}
	for _, python := range []string{"python3", "/usr/bin/python3"} {
		if osexec.Command(python, "-c", "import psycopg").Run() == nil {
			ran("Python", osexec.Command(python, file("example.py", block("python"))), "running\n")
			want++
			break
		}
	}
	jar := "/usr/share/java/postgresql.jar"
	_, missing := os.Stat(jar)
	if java, err := osexec.LookPath("java"); err == nil && missing == nil && address.Host != "" {
		ran("Java", osexec.Command(java, "-cp", jar, file("PlaceOrder.java", block("java"))), "running\n")
		want++
	}
	if n := query[int](t, pool, `SELECT count(*)::int FROM pgsagaz.saga WHERE name = 'order'`); n != want {
		t.Errorf("%d sagas are started by %d examples", n, want)
	}
	if n := query[int](t, pool, `SELECT count(*)::int FROM pgsagaz.outbox WHERE topic = 'orders.placed'`); n != want {
		t.Errorf("%d messages are published by %d examples", n, want)
	}
	if want < 4 && os.Getenv("PGSAGAZ_TEST_LANGUAGES") == "required" {
		t.Errorf("examples in only %d languages were run: psql, psycopg (python3-psycopg) or JDBC (a JDK, libpostgresql-jdbc-java) is missing", want)
	}
	t.Logf("%d languages", want)
}
