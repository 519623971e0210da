package pgengine_test

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

func TestAZeroByteInTheInput(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	e := engine(t, pool, echo(1))
	work(t, e)
	in := part{ID: "a\x00b"} // JSON can say it, jsonb and text can't
	key := &pgengine.StartOptions{Key: "k"}
	s := start(t, e, in, key)
	if got := await(t, e, s.ID, pgengine.Completed); string(got.Output) != `"a\u0000b"` {
		t.Errorf("the output is %s", got.Output)
	}
	if again := start(t, e, in, key); again.ID != s.ID || !again.Existed {
		t.Errorf("again: %+v", again)
	}
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		_, err := e.Start(t.Context(), tx, part{ID: "a\x00c"}, key)
		return err
	})
	if !errors.Is(err, pgengine.ErrOtherInput) {
		t.Errorf("another input: %v", err)
	}
}

// TestStartFromPlainSQL starts sagas as psql does, and any language with a Postgres driver.
func TestStartFromPlainSQL(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	e := engine(t, pool, echo(1))
	register(t, e)
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	results, err := conn.Conn().PgConn().Exec(t.Context(), `SELECT * FROM pgsagaz.start('part', '{"ID": "from psql"}')`).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	id := string(results[0].Rows[0][0])
	work(t, e) // comes later
	if got := await(t, e, id, pgengine.Completed); string(got.Output) != `"from psql"` {
		t.Errorf("%+v", got)
	}

	var same string
	var existed bool
	for i, want := range []bool{false, true} {
		var one string
		err := pool.QueryRow(t.Context(), `SELECT id, existed FROM pgsagaz.start('part', '{"ID": "keyed"}', p_key => 'k', p_tags => '{sql}', p_wake => true)`).Scan(&one, &existed)
		if err != nil || existed != want || i > 0 && one != same {
			t.Errorf("call %d: %s, existed %v, %v", i+1, one, existed, err)
		}
		same = one
	}
	await(t, e, same, pgengine.Completed)

	for statement, state := range map[string]string{
		`SELECT pgsagaz.start('nobody', '{}')`:                    sql.StateUnknownSaga,
		`SELECT pgsagaz.start('part', '{"ID": 1}', p_key => 'k')`: sql.StateOtherInput,
		`SELECT pgsagaz.start('part', NULL)`:                      sql.StateBadArgument,
		`SELECT pgsagaz.start(NULL, '{}')`:                        sql.StateBadArgument,
		`SELECT pgsagaz.start('part', '{}', p_max_bytes => 1)`:    sql.StateInputTooLong,
		`SELECT pgsagaz.start('part', '{}', p_key => '')`:         sql.StateBadArgument,
		`SELECT pgsagaz.start('part', '{"ID": ')`:                 "22P02",
	} {
		if _, err := pool.Exec(t.Context(), statement); sql.State(err) != state {
			t.Errorf("%s: %v, want SQLSTATE %s", statement, err, state)
		}
	}
}

// TestStartFromDatabaseSQL is the recipe for drivers that are not pgx.
func TestStartFromDatabaseSQL(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	e := engine(t, pool, echo(1))
	register(t, e)
	db := stdlib.OpenDBFromPool(pool)
	defer db.Close()
	begin := func() (id string, end func(commit bool)) {
		tx, err := db.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := tx.QueryRowContext(t.Context(), "SELECT id FROM pgsagaz.start($1, $2)", "part", `{"ID": "from database/sql"}`).Scan(&id); err != nil {
			t.Fatal(err)
		}
		return id, func(commit bool) {
			do := tx.Rollback
			if commit {
				do = tx.Commit
			}
			if err := do(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_, end := begin()
	end(false)
	if n := rows(t, pool); len(n) > 0 {
		t.Errorf("rows after a rollback: %v", n)
	}
	id, end := begin()
	end(true)
	work(t, e)
	if got := await(t, e, id, pgengine.Completed); string(got.Output) != `"from database/sql"` {
		t.Errorf("%+v", got)
	}
}

func TestAStartIsDurable(t *testing.T) {
	t.Parallel()
	pool := sqltest.Config(t, func(c *pgxpool.Config) { c.MaxConns = 1 })
	e := engine(t, pool, echo(1))
	for session, want := range map[string]string{
		"off": "on", "local": "on", "on": "on", "remote_write": "remote_write", "remote_apply": "remote_apply",
	} {
		for _, scope := range []string{"SET", "SET LOCAL"} {
			conn, err := pool.Acquire(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			commits := func() (setting string) {
				if err := conn.QueryRow(t.Context(), "SHOW synchronous_commit").Scan(&setting); err != nil {
					t.Fatal(err)
				}
				return setting
			}
			exec := func(statement string) {
				if _, err := conn.Exec(t.Context(), statement); err != nil {
					t.Fatal(err)
				}
			}
			exec("SET synchronous_commit = on")
			if scope == "SET" {
				exec("SET synchronous_commit = " + session)
			}
			outside := commits()
			tx, err := conn.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			exec(scope + " synchronous_commit = " + session)
			sp, err := tx.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := e.Start(t.Context(), sp, part{}, nil); err != nil {
				t.Fatal(err)
			}
			if got := commits(); got != want {
				t.Errorf("%s %s: after the start it is %s, want %s", scope, session, got, want)
			}
			if err := sp.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			exec("SELECT 1")
			if got := commits(); got != want {
				t.Errorf("%s %s: before the commit it is %s, want %s", scope, session, got, want)
			}
			if err := tx.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			if scope == "SET LOCAL" {
				if got := commits(); got != outside {
					t.Errorf("%s %s: after the transaction it is %s, want %s", scope, session, got, outside)
				}
			}
			exec("RESET synchronous_commit")
			conn.Release()
		}
	}
}
