package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/pgsagaz/pgsagaz/sql"
)

func (a *app) migrate() *cobra.Command {
	cmd := &cobra.Command{Use: "migrate", Short: "Bring the schema pgsagaz to the version of this program", Args: cobra.NoArgs, RunE: help}
	a.cfg.bind(cmd.PersistentFlags(), "direct-url")

	up := &cobra.Command{
		Use: "up", Short: "Migrate to the newest version; any number of processes may do so at once", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.migrateBy(cmd.Context(), 0) },
	}

	a.cfg.bind(up.Flags(), "wait-for-database")

	var steps int
	var yes bool
	down := &cobra.Command{
		Use: "down", Short: "Take migrations back, and with them what their tables hold", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if steps < 1 {
				return usagef("migrate down: --steps must say how many migrations to take back, 1 or more")
			}
			if !yes {
				return usagef("migrate down drops tables with all they hold: say --yes if that is what you want")
			}
			return a.migrateBy(cmd.Context(), -steps)
		},
	}
	down.Flags().IntVar(&steps, "steps", 0, "how many migrations to take back")
	down.Flags().BoolVar(&yes, "yes", false, "I know that this deletes data")

	status := &cobra.Command{
		Use: "status", Short: "Show where the schema stands", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withPool(cmd.Context(), func(pool *pgxpool.Pool) error { return a.migrateStatus(cmd.Context(), pool) })
		},
	}

	dump := &cobra.Command{
		Use: "dump", Short: "Print all migrations as SQL, for a tool of your own", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			var b bytes.Buffer
			if err := sql.Dump(&b); err != nil {
				return err
			}
			return a.print(struct {
				Version int    `json:"version"`
				SQL     string `json:"sql"`
			}{sql.Version(), b.String()}, func(w io.Writer) { _, _ = b.WriteTo(w) })
		},
	}
	cmd.AddCommand(up, down, status, dump, a.migrateRoles())
	return cmd
}

func (a *app) migrateRoles() *cobra.Command {
	var r sql.Roles
	cmd := &cobra.Command{
		Use: "roles", Short: "Make the roles for services, workers, operators and monitors, and give them their rights", Args: cobra.NoArgs,
		Long: "Makes the roles that are missing, and gives each its rights: once, and after every migrate up. Logins are made\n" +
			"members of them (GRANT pgsagaz_app TO shop). Run it as the schema's owner, who needs CREATEROLE only for roles\n" +
			"that are not there.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withPool(cmd.Context(), func(pool *pgxpool.Pool) error {
				conn, err := pool.Acquire(cmd.Context())
				if err != nil {
					return err
				}
				defer conn.Release()
				if err := sql.GrantRoles(cmd.Context(), conn.Conn(), r); err != nil {
					return err
				}
				return a.print(r, func(w io.Writer) {
					fmt.Fprintf(w, "%s, %s, %s and %s have their rights\n", r.App, r.Worker, r.Ops, r.Readonly)
				})
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&r.App, "app", "pgsagaz_app", "the role of services")
	flags.StringVar(&r.Worker, "worker", "pgsagaz_worker", "the role of workers")
	flags.StringVar(&r.Ops, "ops", "pgsagaz_ops", "the role of operators")
	flags.StringVar(&r.Readonly, "readonly", "pgsagaz_readonly", "the role of monitors")
	return cmd
}

func help(cmd *cobra.Command, _ []string) error { return cmd.Help() }

func (a *app) migrateBy(ctx context.Context, steps int) error {
	direct, err := a.directConfig()
	if err != nil {
		return err
	}
	return a.withPool(ctx, func(pool *pgxpool.Pool) error {
		if direct == nil {
			direct = pool.Config().ConnConfig
		}
		if err := sql.Migrate(ctx, direct, &sql.MigrateOptions{Steps: steps, Logger: a.logger(slog.LevelWarn)}); err != nil {
			return err
		}
		return a.migrateStatus(ctx, pool)
	})
}

func (a *app) migrateStatus(ctx context.Context, pool *pgxpool.Pool) error {
	s, err := sql.Status(ctx, pool)
	if err != nil {
		return err
	}
	return a.print(s, func(w io.Writer) {
		switch {
		case s.Dirty:
			fmt.Fprintf(w, "schema %d of %d: a migration was interrupted; run `pgsagaz migrate up`, which repairs it\n", s.Schema, s.Code)
		case s.Schema == 0:
			fmt.Fprintln(w, "there is no schema pgsagaz: run `pgsagaz migrate up`")
		case s.Schema < s.Code:
			fmt.Fprintf(w, "schema %d, this program needs %d: run `pgsagaz migrate up`\n", s.Schema, s.Code)
		case s.Code < s.OldestCode:
			fmt.Fprintf(w, "schema %d needs a program of version %d or later, this is %d: deploy a newer build\n", s.Schema, s.OldestCode, s.Code)
		default:
			fmt.Fprintf(w, "schema %d, this program is made for %d: nothing to do\n", s.Schema, s.Code)
		}
	})
}
