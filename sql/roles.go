package sql

import (
	"cmp"
	"context"
	_ "embed"
	"fmt"

	"github.com/jackc/pgx/v5"
)

var (
	//go:embed queries/roles.sql
	roles string
	//go:embed queries/roles_named.sql
	rolesNamed string
)

// Roles names the roles that [GrantRoles] makes; "": the name behind the field. Logins are made members of them.
type Roles struct {
	App      string // pgsagaz_app: a service, which starts, signals, publishes, claims in the inbox and asks how a saga stands
	Worker   string // pgsagaz_worker: a process of this module that drives sagas, publishes or consumes
	Ops      string // pgsagaz_ops: a person who reads everything and asks what an operator may ask
	Readonly string // pgsagaz_readonly: a monitor, which sees no payload
}

// GrantRoles makes the roles that are missing, and gives each of them its rights: once, and after every [Migrate], in one
// transaction. Whoever calls it owns the schema; he needs CREATEROLE only for roles that are not there.
func GrantRoles(ctx context.Context, conn *pgx.Conn, r Roles) error {
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, rolesNamed, cmp.Or(r.App, "pgsagaz_app"), cmp.Or(r.Worker, "pgsagaz_worker"),
			cmp.Or(r.Ops, "pgsagaz_ops"), cmp.Or(r.Readonly, "pgsagaz_readonly"))
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, roles)
		return err
	})
	if State(err) == "42501" {
		return fmt.Errorf("grant roles: %w (have somebody with CREATEROLE make them first: CREATE ROLE pgsagaz_app NOLOGIN, and so on)", err)
	}
	if err != nil {
		return fmt.Errorf("grant roles: %w", err)
	}
	return nil
}
