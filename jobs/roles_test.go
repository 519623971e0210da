package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// A login with pgsagaz_worker alone drives a saga and moves it into the archive, and may not change the audit.
func TestAWorkersRoleIsEnough(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	base := pool.Config().ConnConfig.Database
	r := sql.Roles{App: base + "_app", Worker: base + "_worker", Ops: base + "_ops", Readonly: base + "_readonly"}
	err := pool.AcquireFunc(t.Context(), func(c *pgxpool.Conn) error { return sql.GrantRoles(t.Context(), c.Conn(), r) })
	if err != nil {
		t.Fatal(err)
	}
	login := base + "_login"
	t.Cleanup(func() {
		for _, role := range []string{login, r.App, r.Worker, r.Ops, r.Readonly} {
			_, _ = pool.Exec(context.Background(), fmt.Sprintf(`DROP OWNED BY %q; DROP ROLE %q`, role, role))
		}
	})
	if _, err := pool.Exec(t.Context(), fmt.Sprintf(`CREATE ROLE %q LOGIN PASSWORD 'x'; GRANT %q TO %q`, login, r.Worker, login)); err != nil {
		t.Fatal(err)
	}
	config := pool.Config()
	config.ConnConfig.User, config.ConnConfig.Password = login, "x"
	own, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()

	e, err := pgengine.New(own, pgengine.Config{Sagas: []pgengine.Definition{
		pgengine.Saga[nothing]{Version: 1, Steps: pgengine.Steps[nothing](pgengine.Activity[nothing, int]{
			Name: "step", Do: func(_ context.Context, c pgengine.Call[nothing]) (int, error) {
				if c.Attempt == 1 {
					return 0, errors.New("not at first")
				}
				return 7, nil
			},
		})},
	}})
	if err != nil {
		t.Fatal(err)
	}
	w, err := jobs.NewWorker(e, jobs.Config{ArchiveAfter: time.Millisecond, KeepArchive: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	var id string
	err = sql.InTx(t.Context(), own, func(tx pgx.Tx) error {
		s, err := e.Start(t.Context(), tx, nothing{}, nil)
		id = s.ID
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		s, err := e.Get(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if s.Archived && s.State == pgengine.Completed {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("it is not archived: %+v", s)
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	for _, statement := range []string{`DELETE FROM pgsagaz.audit`, `UPDATE pgsagaz.audit SET actor = 'me'`, `DROP TABLE pgsagaz.archive`} {
		if _, err := own.Exec(t.Context(), statement); sql.State(err) != "42501" {
			t.Errorf("%s: %v", statement, err)
		}
	}
}
