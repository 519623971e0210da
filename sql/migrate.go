package sql

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing/fstest"
	"time"

	"github.com/golang-migrate/migrate/v4"
	migratepgx "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

//go:embed migrations/*.sql
var ownMigrations embed.FS

// migrationLock is the advisory lock that one migrating process holds: "PGSZ" and "MIGR".
const migrationLock = int64(0x5047535A4D494752)

// MigrateOptions tune Migrate. The zero value, and nil, are the defaults.
type MigrateOptions struct {
	// Steps to go: 0 goes up to the newest version, a negative number goes down that many.
	Steps  int
	Logger *slog.Logger // nil: slog.Default()
}

// Migrate brings the schema pgsagaz (ours, and River's tables in it) to the version of this code. Any
// number of processes may call it at once: one works, the others wait until it has finished or ctx ends.
// A migration that was killed at any point is repaired by the next call.
//
// config must lead to the server itself, or to a pooler in session mode: the lock is a session's.
func Migrate(ctx context.Context, config *pgx.ConnConfig, opts *MigrateOptions) error {
	if opts == nil {
		opts = &MigrateOptions{}
	}
	log := opts.Logger
	if log == nil {
		log = slog.Default()
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := lockMigrations(ctx, conn); err != nil {
		return fmt.Errorf("migrate: wait for the migration lock: %w", err)
	}
	if _, err := conn.Exec(ctx, migrateGround); err != nil {
		return fmt.Errorf("migrate: prepare schema pgsagaz: %w", err)
	}

	source, err := iofs.New(migrations(), ".")
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	db := stdlib.OpenDB(*config)
	defer db.Close()
	driver, err := migratepgx.WithInstance(db, &migratepgx.Config{SchemaName: "pgsagaz", MigrationsTable: "schema_migrations"})
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	m, err := migrate.NewWithInstance("iofs", source, "pgx5", driver)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	defer m.Close()
	if err := repair(ctx, conn, m, log); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}

	before, _, _ := m.Version()
	if opts.Steps == 0 && int(before) > Version() {
		// A later build has migrated. Whether this one may run there is for CheckVersion to say.
		log.InfoContext(ctx, "schema pgsagaz is newer than this build: nothing to migrate", "schema", before, "build", Version())
		return nil
	}
	if opts.Steps == 0 {
		err = m.Up()
	} else {
		err = m.Steps(opts.Steps)
	}
	if err != nil && !errors.Is(err, migrate.ErrNoChange) {
		return fmt.Errorf("migrate: %w", err)
	}
	after, _, _ := m.Version()
	if before != after {
		log.InfoContext(ctx, "schema pgsagaz migrated", "from", before, "to", after)
	}
	return nil
}

// lockMigrations asks again and again instead of waiting inside Postgres: a session that waits there
// holds a snapshot, and CREATE INDEX CONCURRENTLY of the one that works would wait for it in turn.
func lockMigrations(ctx context.Context, conn *pgx.Conn) error {
	for {
		var got bool
		if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1)`, migrationLock).Scan(&got); err != nil || got {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50*time.Millisecond + rand.N(100*time.Millisecond)):
		}
	}
}

// repair makes golang-migrate's record agree with what really happened. It marks its version dirty in
// one transaction and runs the file in another, so a crash leaves "dirty" and nobody knows which side
// of the file it fell on. Each of our files inserts its number into schema_applied in its own
// transaction (a down file deletes it), so the highest number there is where the schema stands.
func repair(ctx context.Context, conn *pgx.Conn, m *migrate.Migrate, log *slog.Logger) error {
	var dirty bool // not by m.Version, which calls "dirty, nothing applied" nothing applied
	if err := conn.QueryRow(ctx, `SELECT coalesce(bool_or(dirty), false) FROM pgsagaz.schema_migrations`).Scan(&dirty); err != nil || !dirty {
		return err
	}
	at := -1 // golang-migrate's "nothing applied"
	if err := conn.QueryRow(ctx, `SELECT coalesce(max(version), -1) FROM pgsagaz.schema_applied`).Scan(&at); err != nil {
		return err
	}
	log.WarnContext(ctx, "an earlier migration was interrupted; going on from where it stopped", "version", at)
	return m.Force(at)
}

// SchemaError says that this process must not run on this schema.
type SchemaError struct {
	Schema, OldestCode int // what the database holds; Schema 0: it is not migrated
	Code               int // what this process is
}

func (e *SchemaError) Error() string {
	switch {
	case e.Schema == 0:
		return "schema pgsagaz is not there: run `pgsagaz migrate up` first"
	case e.Code < e.OldestCode:
		return fmt.Sprintf("schema pgsagaz is at version %d and needs code of version %d or later, this is %d: deploy a newer build",
			e.Schema, e.OldestCode, e.Code)
	default:
		return fmt.Sprintf("schema pgsagaz is at version %d, this build needs %d: run `pgsagaz migrate up` first", e.Schema, e.Code)
	}
}

// SchemaStatus is where a database stands.
type SchemaStatus struct {
	Schema     int  `json:"schema"`      // version of the schema; 0: none
	OldestCode int  `json:"oldest_code"` // the oldest code that may run on it
	Code       int  `json:"code"`        // version of this code
	Dirty      bool `json:"dirty"`       // a migration was interrupted; the next one repairs it
}

// Status reads where the schema stands.
func Status(ctx context.Context, db Querier) (SchemaStatus, error) {
	s := SchemaStatus{Code: Version()}
	var there bool
	if err := db.QueryRow(ctx, `SELECT to_regclass('pgsagaz.schema_applied') IS NOT NULL
			AND to_regclass('pgsagaz.schema_migrations') IS NOT NULL`).Scan(&there); err != nil || !there {
		return s, err
	}
	err := db.QueryRow(ctx, `SELECT coalesce(max(version), 0), coalesce(bool_or(dirty), false) FROM pgsagaz.schema_migrations`).
		Scan(&s.Schema, &s.Dirty)
	if err != nil || s.Schema <= 0 {
		return s, err
	}
	if err := db.QueryRow(ctx, `SELECT coalesce(max(version), 0) FROM pgsagaz.schema_applied`).Scan(&s.Schema); err != nil {
		return s, err
	}
	if s.Schema > 0 {
		err = db.QueryRow(ctx, `SELECT oldest_code FROM pgsagaz.schema_info`).Scan(&s.OldestCode)
	}
	return s, err
}

// CheckVersion returns a *SchemaError unless this code may run on the schema it finds.
func CheckVersion(ctx context.Context, db Querier) error {
	s, err := Status(ctx, db)
	if err != nil {
		return err
	}
	if s.Schema < s.Code || s.Code < s.OldestCode {
		return &SchemaError{Schema: s.Schema, OldestCode: s.OldestCode, Code: s.Code}
	}
	return nil
}

// Version is the schema version that this code is made for: the number of its last migration.
func Version() int {
	last := 0
	for _, name := range upFiles(migrations()) {
		fmt.Sscanf(name, "%d_", &last)
	}
	return last
}

// Fingerprint names the content of all migrations: a template database is as good as new while it is the same.
func Fingerprint() string {
	h := sha256.New()
	h.Write([]byte(migrateGround))
	files := migrations()
	for _, name := range upFiles(files) {
		h.Write(files[name].Data)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// Dump writes all migrations as plain SQL, for whoever runs migrations with a tool of his own. The
// script records its version, so that Migrate finds it done.
func Dump(w io.Writer) error {
	files := migrations()
	if _, err := io.WriteString(w, migrateGround+"\n"); err != nil {
		return err
	}
	for _, name := range upFiles(files) {
		if _, err := fmt.Fprintf(w, "\n-- %s\nBEGIN;\n%s\nCOMMIT;\n", name, files[name].Data); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, `
BEGIN;
CREATE TABLE IF NOT EXISTS pgsagaz.schema_migrations (version bigint NOT NULL PRIMARY KEY, dirty boolean NOT NULL);
TRUNCATE pgsagaz.schema_migrations;
INSERT INTO pgsagaz.schema_migrations (version, dirty) VALUES (%d, false);
COMMIT;
`, Version())
	return err
}

func upFiles(f fstest.MapFS) []string {
	var names []string
	for name := range f {
		if strings.HasSuffix(name, ".up.sql") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// migrations are our own files and River's, in the order of their numbers, each with its mark.
func migrations() fstest.MapFS {
	all := riverMigrations()
	entries, err := ownMigrations.ReadDir("migrations")
	if err != nil {
		panic(err) // the directory is embedded above
	}
	for _, e := range entries {
		body, err := ownMigrations.ReadFile("migrations/" + e.Name())
		if err != nil {
			panic(err)
		}
		all[e.Name()] = &fstest.MapFile{Data: body}
	}
	for name, file := range all {
		var number int
		fmt.Sscanf(name, "%d_", &number)
		mark := fmt.Sprintf("INSERT INTO pgsagaz.schema_applied (version) VALUES (%d);\n", number)
		if strings.HasSuffix(name, ".down.sql") {
			mark = fmt.Sprintf("DELETE FROM pgsagaz.schema_applied WHERE version = %d;\n", number)
		}
		file.Data = append(append(bytes.TrimRight(file.Data, "\n "), "\n\n"...), mark...)
	}
	return all
}
