package sqltest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/sql"
)

// empty is the template of databases without our schema. Unlike template1 it holds nothing that the server's owner put there.
const empty = "template0"

// template is the name of the migrated template: another hash is another schema. Names are at most 63 bytes long.
func template() string { return "pgsagaz_template_" + sql.Fingerprint() }

// create clones a database, which is dropped when the test ends.
func create(t testing.TB, from string) (url string) {
	t.Helper()
	server, err := sharedServer()
	if err != nil {
		t.Fatal(err)
	}
	if from != empty {
		if err := server.migrateOnce(); err != nil {
			t.Fatalf("sqltest: %v", err)
		}
	}
	begin := time.Now()
	name := "pgsagaz_test_" + randomHex()
	err = execute(t.Context(), server.url, func(ctx context.Context, conn *pgx.Conn) error {
		return createDatabase(ctx, conn, name, from)
	})
	if err == nil && from != empty {
		err = plantSchema(t.Context(), withDatabase(server.url, name))
	}
	if err != nil {
		t.Fatalf("sqltest: %v", err)
	}
	t.Logf("sqltest: %s cloned from %s of %s in %v", name, from, server.origin, time.Since(begin).Round(time.Millisecond))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
		defer cancel()
		if err := execute(ctx, server.url, func(ctx context.Context, conn *pgx.Conn) error {
			return dropDatabase(ctx, conn, name)
		}); err != nil {
			t.Errorf("sqltest: %v", err)
		}
	})
	return withDatabase(server.url, name)
}

func createDatabase(ctx context.Context, conn *pgx.Conn, name, from string) error {
	statement := "CREATE DATABASE " + quote(name) + " TEMPLATE " + quote(from)
	var version int
	if err := conn.QueryRow(ctx, "SELECT current_setting('server_version_num')::int").Scan(&version); err != nil {
		return err
	}
	if version >= 150000 {
		// The default since 15 writes every page to the WAL too; before, copying files was the only way.
		statement += " STRATEGY file_copy"
	}
	_, err := conn.Exec(ctx, statement)
	return wrap(err, "create database "+name)
}

// dropDatabase ends the sessions that a test left open.
func dropDatabase(ctx context.Context, conn *pgx.Conn, name string) error {
	_, err := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+quote(name)+" WITH (FORCE)")
	return wrap(err, "drop database "+name)
}

// ensureTemplate makes the template of that name unless it is there. Of the processes that want it, one makes it and the others
// wait. It is declared a template last: a database of the name that is none was left half made, and is made anew.
func ensureTemplate(ctx context.Context, url, name string) error {
	return execute(ctx, url, func(ctx context.Context, conn *pgx.Conn) error {
		// A session's lock, released when execute closes the connection.
		if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1)", lockKey(name)); err != nil {
			return fmt.Errorf("wait for the template: %w", err)
		}
		var made bool
		const find = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1 AND datistemplate)"
		if err := conn.QueryRow(ctx, find, name).Scan(&made); err != nil || made {
			return err
		}
		if err := dropDatabase(ctx, conn, name); err != nil {
			return err
		}
		if err := createDatabase(ctx, conn, name, empty); err != nil {
			return err
		}
		config, err := pgx.ParseConfig(withDatabase(url, name))
		if err != nil {
			return err
		}
		if err := sql.Migrate(ctx, config, &sql.MigrateOptions{Logger: slog.New(slog.DiscardHandler)}); err != nil {
			return fmt.Errorf("make the template %s: %w", name, err)
		}
		// A template somebody is connected to cannot be cloned.
		_, err = conn.Exec(ctx, "ALTER DATABASE "+quote(name)+" WITH ALLOW_CONNECTIONS false IS_TEMPLATE true")
		return wrap(err, "declare the template "+name)
	})
}

// execute does something on a connection of its own to the server's first database.
func execute(ctx context.Context, url string, do func(context.Context, *pgx.Conn) error) (err error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	return do(ctx, conn)
}

// withDatabase is the URL of another database of the same server.
func withDatabase(server, name string) string {
	u, err := url.Parse(server)
	if err != nil { // it was parsed when the server was chosen
		panic(err)
	}
	u.Path = "/" + name
	return u.String()
}

func lockKey(name string) int64 {
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(name)) // never fails
	return int64(hash.Sum64())      // any 64 bits will do
}

func randomHex() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

func wrap(err error, doing string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}
