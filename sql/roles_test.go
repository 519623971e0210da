package sql_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// granted makes the roles under names of this test's own, as roles are the whole server's, and a login that is a member of
// the one that is chosen.
func granted(t *testing.T, pool *pgxpool.Pool, choose func(sql.Roles) string) *pgx.Conn {
	t.Helper()
	base := query[string](t, pool, `SELECT current_database()`)
	r := sql.Roles{App: base + "_app", Worker: base + "_worker", Ops: base + "_ops", Readonly: base + "_readonly"}
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	for range 2 { // again changes nothing
		if err := sql.GrantRoles(t.Context(), conn.Conn(), r); err != nil {
			t.Fatal(err)
		}
	}
	login := base + "_login"
	exec(t, pool, fmt.Sprintf(`CREATE ROLE %q LOGIN PASSWORD 'x'; GRANT %q TO %q`, login, choose(r), login))
	t.Cleanup(func() {
		for _, role := range []string{login, r.App, r.Worker, r.Ops, r.Readonly} {
			_, _ = pool.Exec(context.Background(), fmt.Sprintf(`DROP OWNED BY %q; DROP ROLE %q`, role, role))
		}
	})
	config := pool.Config().ConnConfig.Copy()
	config.User, config.Password = login, "x"
	as, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = as.Close(context.Background()) })
	return as
}

// TestAnAppMayDoThisAndNothingElse: a login with pgsagaz_app alone starts, signals, publishes, claims and asks how a saga
// stands; of all tables, sequences and functions there are, as the catalogue lists them, it may use no other.
func TestAnAppMayDoThisAndNothingElse(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	exec(t, pool, `INSERT INTO pgsagaz.definition (name, version, graph) VALUES ('order', 1,
		'{"steps": [{"name": "a", "kind": "await", "after": [], "signal": "go"}], "output": "a"}')`)
	app := granted(t, pool, func(r sql.Roles) string { return r.App })
	may := func(into any, statement string, args ...any) {
		t.Helper()
		if err := app.QueryRow(t.Context(), statement, args...).Scan(into); err != nil {
			t.Errorf("%s: %v", statement, err)
		}
	}
	var id, state, event string
	var first, again, durable bool
	may(&id, `SELECT id::text FROM pgsagaz.start('order', '{"ID": "1"}', p_key => 'k', p_tags => '{blue}', p_wake => true)`)
	may(&state, `SELECT pgsagaz.signal($1, 'go', '{}')`, id)
	may(&state, `SELECT state FROM pgsagaz.status($1)`, id)
	may(&event, `SELECT pgsagaz.publish('orders', '\x7b7d', 'k', p_wake => true)::text`)
	may(&first, `SELECT pgsagaz.inbox_claim('me', 'event-1', 'them')`)
	may(&again, `SELECT pgsagaz.inbox_claim('me', 'event-1', 'them')`)
	if state != "running" || !first || again {
		t.Errorf("the saga is %s; claimed %v and %v", state, first, again)
	}
	// What must be on disk is, though the function that sees to it runs as another.
	if err := pgx.BeginFunc(t.Context(), app, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), `SET LOCAL synchronous_commit = off; SELECT pgsagaz.publish('orders', '')`); err != nil {
			return err
		}
		return tx.QueryRow(t.Context(), `SELECT current_setting('synchronous_commit') = 'on'`).Scan(&durable)
	}); err != nil || !durable {
		t.Errorf("synchronous commit %v, %v", durable, err)
	}

	refused := func(statement string) {
		t.Helper()
		_, err := app.Exec(t.Context(), statement)
		if sql.State(err) != "42501" {
			t.Errorf("%s is not refused: %v", statement, err)
		}
	}
	type relation struct{ Name, Column, Kind string }
	rows, err := pool.Query(t.Context(), `
		SELECT format('%I.%I', n.nspname, c.relname), format('%I', a.attname), c.relkind::text
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
		WHERE n.nspname = 'pgsagaz' AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
		  AND a.attnum = (SELECT min(attnum) FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped) ORDER BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	relations, err := pgx.CollectRows(rows, pgx.RowToStructByPos[relation])
	if err != nil || len(relations) < 40 {
		t.Fatalf("%d relations, %v", len(relations), err)
	}
	for _, r := range relations {
		refused(`SELECT FROM ` + r.Name)
		refused(`SELECT ` + r.Column + ` FROM ` + r.Name)
		if r.Kind == "v" {
			continue // nobody writes them
		}
		refused(`INSERT INTO ` + r.Name + ` DEFAULT VALUES`)
		refused(`UPDATE ` + r.Name + ` SET ` + r.Column + ` = DEFAULT`)
		refused(`DELETE FROM ` + r.Name)
		refused(`TRUNCATE ` + r.Name)
	}
	for _, sequence := range strings_(t, pool, `SELECT format('%I.%I', schemaname, sequencename) FROM pg_sequences WHERE schemaname = 'pgsagaz'`) {
		refused(`SELECT nextval('` + sequence + `')`)
		refused(`SELECT last_value FROM ` + sequence)
	}
	callable := map[string]bool{}
	for _, name := range strings_(t, pool, `SELECT proname::text FROM pg_proc
		WHERE pronamespace = 'pgsagaz'::regnamespace AND has_function_privilege('`+app.Config().User+`', oid, 'EXECUTE')`) {
		callable[name] = true
	}
	if got, want := fmt.Sprint(slices.Sorted(maps.Keys(callable))), "[inbox_claim now publish saga_by_key signal start start_many status uuid7]"; got != want {
		t.Errorf("it may call %s, want %s", got, want)
	}
	for _, statement := range []string{
		`SELECT pgsagaz.cancel('` + id + `')`, `SELECT pgsagaz.retry('` + id + `')`, `SELECT pgsagaz.command('` + id + `', 'cancel', '')`,
		`SELECT pgsagaz.ask('` + id + `', 'cancel', 'me', '')`, `CREATE TABLE pgsagaz.mine (x int)`, `DROP TABLE pgsagaz.saga`,
		`CREATE FUNCTION pgsagaz.evil() RETURNS int LANGUAGE sql AS 'SELECT 1'`, `ALTER TABLE pgsagaz.saga DISABLE TRIGGER ALL`,
	} {
		refused(statement)
	}
	// Nor does a search path of its own lead the functions astray.
	exec(t, pool, fmt.Sprintf(`GRANT CREATE ON DATABASE %q TO %q`, query[string](t, pool, `SELECT current_database()`), app.Config().User))
	if _, err := app.Exec(t.Context(), `
		CREATE SCHEMA astray; SET search_path = astray, pg_catalog;
		CREATE FUNCTION astray.octet_length(text) RETURNS integer LANGUAGE plpgsql AS $$ BEGIN RAISE 'astray'; END $$;
		CREATE FUNCTION astray.coalesce_(text) RETURNS text LANGUAGE sql AS 'SELECT $1'`); err != nil {
		t.Fatal(err)
	}
	may(&id, `SELECT id::text FROM pgsagaz.start('order', '{"ID": "2"}')`)
}

// Every function that runs as the owner has its search path pinned, with the temporary schema at its end.
func TestDefinersArePinned(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	for _, f := range strings_(t, pool, `SELECT oid::regprocedure::text FROM pg_proc
		WHERE pronamespace = 'pgsagaz'::regnamespace AND prosecdef AND NOT coalesce(proconfig @> '{"search_path=pgsagaz, pg_temp"}', false)`) {
		t.Errorf("%s is not", f)
	}
}

// A monitor sees how sagas stand, and neither inputs nor results; an operator asks, and stands in the audit as who he is.
func TestMonitorAndOperator(t *testing.T) {
	t.Parallel()
	for _, role := range []string{"readonly", "ops"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			pool := sqltest.New(t)
			id := query[string](t, pool, `SELECT id::text FROM pgsagaz.start('order', '{"secret": 1}', p_version => 1, p_registered => false)`)
			conn := granted(t, pool, func(r sql.Roles) string {
				if role == "ops" {
					return r.Ops
				}
				return r.Readonly
			})
			var state string
			if err := conn.QueryRow(t.Context(), `SELECT state FROM pgsagaz.sagas WHERE id = $1 AND NOT archived`, id).Scan(&state); err != nil || state != "running" {
				t.Errorf("%q, %v", state, err)
			}
			if _, err := conn.Exec(t.Context(), `SELECT * FROM pgsagaz.steps`); err != nil {
				t.Error(err)
			}
			_, err := conn.Exec(t.Context(), `SELECT input FROM pgsagaz.saga`)
			_, asks := conn.Exec(t.Context(), `SELECT pgsagaz.cancel($1, 'no more', 'Ann')`, id)
			_, forges := conn.Exec(t.Context(), `INSERT INTO pgsagaz.audit (saga_id, saga, verb, actor) VALUES ($1, 'order', 'cancel', 'Bob')`, id)
			_, deletes := conn.Exec(t.Context(), `DELETE FROM pgsagaz.inbox_dead`) // that would be no audited drop
			_, drops := conn.Exec(t.Context(), `SELECT pgsagaz.inbox_drop('{}'), pgsagaz.inbox_redrive('{}')`)
			_, outputs := conn.Exec(t.Context(), `SELECT output FROM pgsagaz.status($1)`, id)
			if role == "readonly" {
				for _, refused := range []error{err, asks, forges, deletes, drops, outputs} {
					if sql.State(refused) != "42501" {
						t.Errorf("%v, %v, %v, %v, %v, %v", err, asks, forges, deletes, drops, outputs)
						break
					}
				}
				return
			}
			if sql.State(deletes) != "42501" || drops != nil || outputs != nil {
				t.Errorf("%v, %v, %v", deletes, drops, outputs)
			}
			if err != nil || asks != nil || sql.State(forges) != "42501" {
				t.Errorf("%v, %v, %v", err, asks, forges)
			}
			var who string
			if err := conn.QueryRow(t.Context(), `SELECT actor || ' as ' || login FROM pgsagaz.audit_log WHERE answer = 'waits'`).Scan(&who); err != nil || who != "Ann as "+conn.Config().User {
				t.Errorf("%q, %v", who, err)
			}
			for _, own := range []string{"child", "revert", "deadline", "plan", "signal"} { // what sagas say to each other
				if _, err := conn.Exec(t.Context(), `SELECT pgsagaz.ask($1, $2, 'Ann', '')`, id, own); sql.State(err) != "PS007" {
					t.Errorf("%s: %v", own, err)
				}
			}
			for _, verb := range []string{"pause($1)", "unpause($1)", "retry($1)", "retry($1, p_step => 'a')", "skip($1, 'a')", "resolve($1, 'a', 'done', '1')", "cancel($1, p_undo => false)"} {
				if _, err := conn.Exec(t.Context(), `SELECT pgsagaz.`+verb, id); err != nil {
					t.Errorf("%s: %v", verb, err)
				}
			}
			if _, err := pool.Exec(t.Context(), `DELETE FROM pgsagaz.lane; DELETE FROM pgsagaz.command; DELETE FROM pgsagaz.saga;
				ALTER TABLE pgsagaz.audit DISABLE TRIGGER USER; DELETE FROM pgsagaz.audit`); err != nil { // nobody works here
				t.Error(err)
			}
		})
	}
}

// The schema's owner need not be able to make roles; then somebody else has to.
func TestRolesAreMadeByWhoMay(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	owner := query[string](t, pool, `SELECT current_database() || '_owner'`)
	exec(t, pool, fmt.Sprintf(`CREATE ROLE %q`, owner))
	t.Cleanup(func() { _, _ = pool.Exec(context.Background(), fmt.Sprintf(`DROP ROLE %q`, owner)) })
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	if _, err := conn.Exec(t.Context(), fmt.Sprintf(`SET ROLE %q`, owner)); err != nil {
		t.Fatal(err)
	}
	err = sql.GrantRoles(t.Context(), conn.Conn(), sql.Roles{App: owner + "_a"})
	if sql.State(err) != "42501" || !strings.Contains(err.Error(), "CREATEROLE") {
		t.Error(err)
	}
	if _, err := conn.Exec(t.Context(), `RESET ROLE`); err != nil {
		t.Error(err)
	}
}

func strings_(t *testing.T, pool *pgxpool.Pool, statement string) []string {
	t.Helper()
	rows, err := pool.Query(t.Context(), statement)
	if err != nil {
		t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return all
}
