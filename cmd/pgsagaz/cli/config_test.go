package cli

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

var update = flag.Bool("update", false, "write the pages that are made from the code")

func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

type inForce struct{ Settings []settingInForce }

func (s inForce) get(t *testing.T, flag string) settingInForce {
	t.Helper()
	i := slices.IndexFunc(s.Settings, func(r settingInForce) bool { return r.Flag == flag })
	if i < 0 {
		t.Fatalf("there is no %s", flag)
	}
	return s.Settings[i]
}

func TestConfigShowsWhereValuesComeFrom(t *testing.T) {
	url := write(t, "url", "postgres://me:s3cret@db:5433/shop?sslmode=disable\n")
	file := write(t, "pgsagaz.env", "# the shop\n\nPGSAGAZ_POOL_SIZE = 7\nPGSAGAZ_LEASE=9s\nPGSAGAZ_QUEUES=\"default,slow=5\"\n"+
		"PGSAGAZ_LOG_FORMAT='json'\nPGSAGAZ_BROKER=amqp://u:s3cret@mq/?topology=check\nPGSAGAZ_DIRECT_URL_FILE="+url+"\nDATABASE_URL=postgres://nobody@other/\n")
	h := &theatre{t: t, env: map[string]string{"PGSAGAZ_CONFIG": file, "PGSAGAZ_LEASE": "8s", "PGSAGAZ_DATABASE_URL_FILE": url, "PGSAGAZ_GRACE": "4s"}}
	args := []string{"config", "--grace", "3s"}
	var got inForce
	h.ok(&got, args...)
	for flag, want := range map[string][2]any{
		"--config":       {file, "PGSAGAZ_CONFIG"},
		"--pool-size":    {7.0, file + ": PGSAGAZ_POOL_SIZE"},
		"--queues":       {"default,slow=5", file + ": PGSAGAZ_QUEUES"},
		"--log-format":   {"json", file + ": PGSAGAZ_LOG_FORMAT"},
		"--lease":        {"8s", "PGSAGAZ_LEASE"}, // before the file
		"--grace":        {"3s", "--grace"},       // before the variable
		"--sweep":        {"500ms", "default"},
		"--keep-keys":    {"2160h", "default"},
		"--fail-rate":    {0.1, "default"},
		"--no-listen":    {false, "default"},
		"--database-url": {"postgres://me:xxxxx@db:5433/shop", "PGSAGAZ_DATABASE_URL_FILE"},
		"--direct-url":   {"postgres://me:xxxxx@db:5433/shop", file + ": PGSAGAZ_DIRECT_URL_FILE"},
		"--broker":       {"amqp://u:xxxxx@mq/?...", file + ": PGSAGAZ_BROKER"},
	} {
		if r := got.get(t, flag); !reflect.DeepEqual([2]any{r.Value, r.From}, want) {
			t.Errorf("%s: %v from %v, want %v", flag, r.Value, r.From, want)
		}
	}
	text := h.text(args...)
	contains(t, text, "--pool-size", "postgres://me:xxxxx@db:5433/shop", "PGSAGAZ_DATABASE_URL_FILE")
	if strings.Contains(text, "s3cret") {
		t.Errorf("a password is shown:\n%s", text)
	}
	if r := h.run(append(args, "--config", write(t, "other", "PGSAGAZ_POOL_SIZE=8"), "--json")...); !strings.Contains(r.stdout, `"value": 8`) {
		t.Errorf("--config beats PGSAGAZ_CONFIG: %s", r.stdout)
	}
}

// TestAllProblemsAtOnce: whoever mends a configuration starts it once, not once a mistake.
func TestAllProblemsAtOnce(t *testing.T) {
	file := write(t, "pgsagaz.env", "PGSAGAZ_POOLSIZE=7\npassword s3cret\nPGSAGAZ_SWEEP=1s\nPGSAGAZ_SWEEP=2s\nPGSAGAZ_CONFIG=x\n")
	h := &theatre{t: t, env: map[string]string{
		"PGSAGAZ_CONFIG": file, "PGSAGAZ_LEASE": "soon", "PGSAGAZ_DIRECT_URL": "postgres://u:s3cret@h:port/x", "PGSAGAZ_BROKER": "kafka://u:s3cret@k:1?colour=red",
		"PGSAGAZ_BROKER_FILE": "", "PGSAGAZ_DATABASE_URL": "postgres://db/x", "PGSAGAZ_DATABASE_URL_FILE": "/no/such/file",
	}}
	mistakes := []string{
		"line 1: there is no setting PGSAGAZ_POOLSIZE", "line 2: not of the form", "line 4: PGSAGAZ_SWEEP is there twice", "line 5: there is no setting PGSAGAZ_CONFIG",
		`PGSAGAZ_LEASE: "soon"`, "--direct-url", `no option "colour"`, "both PGSAGAZ_DATABASE_URL and PGSAGAZ_DATABASE_URL_FILE",
		"--pool-size: 0 is not between 1 and 32768", "--poll: 1µs is below 1ms", `--only: "both" is none of sagas, relay`, `--on-rejected: "drop" is none of give up, hold`,
		"--relay-lease: 1ms is below 500ms", "--log-level",
	}
	for _, command := range []string{"worker", "config"} {
		r := h.run(command, "--pool-size", "0", "--poll", "1us", "--only", "both", "--on-rejected", "drop", "--relay-lease", "1ms", "--log-level", "loud")
		if r.code != exitUsage || r.stdout != "" {
			t.Errorf("%s: %+v", command, r)
		}
		contains(t, r.stderr, mistakes...)
		contains(t, r.stderr, fmt.Sprintf("%d settings are wrong", len(mistakes)))
		if strings.Contains(r.stderr, "s3cret") {
			t.Errorf("a password is told:\n%s", r.stderr)
		}
	}
	for _, c := range []struct{ env, value, says string }{
		{"PGSAGAZ_POOL_SIZE", "0", "no database"},
		{"PGSAGAZ_CONFIG", "/no/such/file", "--config: open /no/such/file"},
		{"PGSAGAZ_DATABASE_URL_FILE", "/no/such/file", "PGSAGAZ_DATABASE_URL_FILE: open /no/such/file"},
		{"DATABASE_URL_FILE", write(t, "empty", "\n"), "is empty"},
	} {
		h := &theatre{t: t, env: map[string]string{c.env: c.value}}
		if r := h.run("worker"); r.code != exitUsage || !strings.Contains(r.stderr, c.says) {
			t.Errorf("%s=%s: %+v, want %q", c.env, c.value, r, c.says)
		}
	}
}

// TestPasswordsAreNotTold, however the connection string is malformed, whichever command reads it, and however much is logged.
func TestPasswordsAreNotTold(t *testing.T) {
	for _, dsn := range []string{
		"postgres://me:s3cret@127.0.0.1:1/db",
		"postgres://me:s3cret@127.0.0.1:port/db",
		"postgres://me:s3cret@127.0.0.1:1:2/db",
		"postgres://me:s3cret%zz@127.0.0.1:1/db",
		"postgres://me:s3/cret@127.0.0.1:1/db",
		"postgres://me:a:s3cret@b@127.0.0.1:1/db",
		"postgres://me:s3cret#@127.0.0.1:1/db",
		"postgres://me:s3cret@127.0.0.1:1/db?sslmode=maybe",
		"postgres://127.0.0.1:1/db?password=s3cret&user=me&sslmode=maybe",
		"postgres://127.0.0.1:1/db?sslpassword=s3cret&target_session_attrs=all",
		"postgres://me:s3cret@127.0.0.1:1/db?pool_max_conns=many",
		"postgres ://me:s3cret@127.0.0.1:1/db",
		"http://me:s3cret@127.0.0.1:1/db",
		"host=127.0.0.1 port=1 user=me password=s3cret",
		"host=127.0.0.1 port=x user=me password='s3cret",
		`host=127.0.0.1 port=x user=me password = s3cret\ s3cret`,
		"me:s3cret@127.0.0.1",
		"s3cret",
	} {
		h := &theatre{t: t, env: map[string]string{"PGSAGAZ_DATABASE_URL": dsn, "PGSAGAZ_DIRECT_URL": dsn, "PGSAGAZ_LOG_LEVEL": "debug"}}
		for _, args := range []string{"check", "config", "migrate status", "migrate up", "saga list", "outbox status", "demo", "worker --wait-for-schema", "worker --broker memory"} {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			r := h.runWith(ctx, "", strings.Fields(args)...)
			cancel()
			if said := r.stdout + r.stderr; strings.Contains(said, "s3cret") || strings.Contains(said, "cret@") || strings.Contains(said, "s3/") {
				t.Errorf("pgsagaz %s with %s:\n%s", args, dsn, said)
			}
		}
	}
}

func TestWorkerWaitsForSchema(t *testing.T) {
	pool := sqltest.Empty(t)
	h := newTheatre(t, pool.Config().ConnString())
	if r := h.run("worker", "--grace", "1s"); r.code != exitFailed || !strings.Contains(r.stderr, "pgsagaz migrate up") {
		t.Errorf("without --wait-for-schema: %+v", r)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan result, 1)
	go func() {
		done <- h.runWith(ctx, "", "worker", "--wait-for-schema", "--broker", "memory", "--grace", "1s", "--log-level", "info")
	}()
	time.Sleep(100 * time.Millisecond) // mostly before, and it makes no difference when
	h.text("migrate", "up")
	h.eventually(func() bool { return h.run("saga", "start", "ticket", "--input", "{}", "--key", "1").code == exitOK })
	h.eventually(func() bool {
		return strings.Contains(h.run("saga", "list", "--json").stdout, `"completed"`)
	})
	cancel()
	if r := <-done; r.code != exitOK {
		t.Errorf("%+v", r)
	}

	// A schema that this build is too old for does not come back.
	if _, err := pool.Exec(t.Context(), `UPDATE pgsagaz.schema_info SET version = 1000, oldest_code = 1000`); err != nil {
		t.Fatal(err)
	}
	if r := h.run("worker", "--wait-for-schema"); r.code != exitFailed || !strings.Contains(r.stderr, "deploy a newer build") {
		t.Errorf("a newer schema: %+v", r)
	}
}

func TestMigrateWaitsForDatabase(t *testing.T) {
	h := newTheatre(t, "postgres://me@127.0.0.1:1/db")
	begun := time.Now()
	r := h.run("migrate", "up", "--wait-for-database", "1s")
	if r.code != exitFailed || time.Since(begun) < time.Second {
		t.Errorf("after %v: %+v", time.Since(begun), r)
	}
	contains(t, r.stderr, "waiting for the database", "does not answer")
	h = newTheatre(t, sqltest.URL(t))
	h.text("migrate", "up", "--wait-for-database", "1m")
}

// TestConfigurationPage: docs/configuration.md is made from the table; go test ./cmd/pgsagaz/cli -run ConfigurationPage -update
func TestConfigurationPage(t *testing.T) {
	const path = "../../../docs/configuration.md"
	want := configurationPage()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("docs/configuration.md is not what the table says: run go test ./cmd/pgsagaz/cli -run ConfigurationPage -update")
	}
}

func configurationPage() string {
	a := &app{Program: Program{Demo: true}}
	root := a.root()
	users := map[string][]string{} // the first words of commands, by flag
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Name() == "config" || cmd.Hidden {
			return
		}
		path := strings.Fields(cmd.CommandPath() + " all")[1] // the first word of the command
		note := func(f *pflag.Flag) {
			for _, s := range a.cfg.settings() {
				if s.flag == f.Name && strings.HasPrefix(f.Usage, s.help) && !slices.Contains(users[s.flag], path) { // not a command's own flag of that name
					users[s.flag] = append(users[s.flag], path)
				}
			}
		}
		cmd.PersistentFlags().VisitAll(note)
		cmd.LocalNonPersistentFlags().VisitAll(note)
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(root)

	var b strings.Builder
	b.WriteString(configurationHead)
	var done []string
	for _, s := range a.cfg.settings() {
		by := strings.Join(users[s.flag], "`, `")
		if slices.Contains(done, by) {
			continue
		}
		done = append(done, by)
		b.WriteString("\n## " + strings.Replace("`"+by+"`", "`all`", "All commands", 1) + "\n\n")
		b.WriteString("| flag | variable | default | what it is |\n|---|---|---|---|\n")
		for _, row := range a.cfg.settings() {
			if strings.Join(users[row.flag], "`, `") != by {
				continue
			}
			var variables []string
			for _, v := range strings.Fields(row.variables) {
				variables = append(variables, "`"+v+"`")
				if _, ok := row.field.(secret); ok {
					variables = append(variables, "`"+v+"_FILE`")
				}
			}
			byDefault := fmt.Sprint(readable(row.byDefault))
			if byDefault != "" {
				byDefault = "`" + byDefault + "`"
			}
			fmt.Fprintf(&b, "| `--%s` | %s | %s | %s |\n", row.flag, strings.Join(variables, ", "), byDefault, strings.ReplaceAll(row.help, "|", `\|`))
		}
	}
	return b.String()
}

const configurationHead = `# Configuration

<!-- Made from the table in cmd/pgsagaz/cli/config.go: go test ./cmd/pgsagaz/cli -run ConfigurationPage -update -->

A flag beats a variable, a variable beats a line of the file that ` + "`--config`" + ` names, and that beats the default.
` + "`pgsagaz config`" + ` shows every setting with the value in force and where it comes from, without passwords; with values
that are not possible it exits with 2 and names them all, as every command does with those it reads. The libraries
read no environment: what a program of yours sets in a Go ` + "`Config`" + ` is all there is.

The file has a line for each setting, by the variable's name. A name that means nothing is an error.

` + "```" + `
# shop.env
PGSAGAZ_POOL_SIZE=32
PGSAGAZ_QUEUES=default,slow=5
PGSAGAZ_DATABASE_URL_FILE=/run/secrets/database-url
` + "```" + `

What holds a password can be given as a file: the variable with ` + "`_FILE`" + ` behind it names a file whose content is the value.
Passwords are never logged, and are in no error. Values of time are written like ` + "`500ms`, `5s`, `24h`" + `.
`
