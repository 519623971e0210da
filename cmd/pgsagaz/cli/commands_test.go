package cli

import (
	"context"
	"encoding/json"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/pgsagaz/pgsagaz/cmd/pgsagaz/demo"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

func TestMigrate(t *testing.T) {
	pool := sqltest.Empty(t)
	h := newTheatre(t, pool.Config().ConnString())
	var s sql.SchemaStatus
	h.ok(&s, "migrate", "status")
	if s.Schema != 0 || s.Code != sql.Version() {
		t.Errorf("status of an empty database: %+v", s)
	}
	contains(t, h.text("migrate", "status"), "no schema", "pgsagaz migrate up")
	r := h.run("saga", "list")
	if r.code != exitFailed {
		t.Errorf("saga list without a schema: %+v", r)
	}
	contains(t, r.stderr, "pgsagaz migrate up")

	h.ok(&s, "migrate", "up")
	if s.Schema != sql.Version() || s.Dirty {
		t.Errorf("after up: %+v", s)
	}
	contains(t, h.text("migrate", "up"), "nothing to do")
	if r := h.run("migrate", "down", "--steps", "1"); r.code != exitUsage {
		t.Errorf("down without --yes: %+v", r)
	}
	if r := h.run("migrate", "down", "--yes"); r.code != exitUsage {
		t.Errorf("down without --steps: %+v", r)
	}
	h.ok(&s, "migrate", "down", "--steps", "1", "--yes")
	if s.Schema >= sql.Version() {
		t.Errorf("after down: %+v", s)
	}
	contains(t, h.text("migrate", "status"), "pgsagaz migrate up")
	h.ok(&s, "migrate", "up", "--direct-url", pool.Config().ConnString())
	if s.Schema != sql.Version() {
		t.Errorf("up again: %+v", s)
	}

	var dump struct {
		Version int
		SQL     string
	}
	h.ok(&dump, "migrate", "dump")
	if dump.Version != sql.Version() || !strings.Contains(dump.SQL, "CREATE TABLE pgsagaz.saga") {
		t.Errorf("dump of version %d, %d bytes", dump.Version, len(dump.SQL))
	}
	if h.text("migrate", "dump") != dump.SQL {
		t.Error("the dump for people is another")
	}
}

func TestCheckFinds(t *testing.T) {
	pool := sqltest.Empty(t)
	h := newTheatre(t, pool.Config().ConnString())
	h.text("migrate", "up")
	const id = "01900000-0000-7000-8000-000000000001"
	if _, err := pool.Exec(t.Context(), `INSERT INTO pgsagaz.saga (id, name, version, state, input, ended_at)
		VALUES ('`+id+`', 'ghost', 1, 'completed', '{}', now())`); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(), `INSERT INTO pgsagaz.lane (saga_id, step, queue) VALUES ('`+id+`', 'a', 'default')`); err != nil {
		t.Fatal(err)
	}
	var found struct{ Violations []sql.Violation }
	h.exits(exitFailed, &found, "check")
	if len(found.Violations) == 0 || found.Violations[0].SagaID != id {
		t.Errorf("found %+v", found)
	}
	if r := h.run("check"); r.code != exitFailed || !strings.Contains(r.stdout, id) {
		t.Errorf("check: %+v", r)
	}
}

// TestCheckRepairs: a saga that nothing would ever move is found, and set going by whoever says so.
func TestCheckRepairs(t *testing.T) {
	pool := sqltest.New(t)
	h := newTheatre(t, pool.Config().ConnString())
	var id string
	if err := pool.QueryRow(t.Context(), `SELECT id::text FROM pgsagaz.start('ghost', '{}', p_version => 1, p_registered => false)`).Scan(&id); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(), `DELETE FROM pgsagaz.lane`); err != nil {
		t.Fatal(err)
	}
	if r := h.run("check"); r.code != exitFailed || !strings.Contains(r.stdout, "forgotten: saga "+id) {
		t.Errorf("check: %+v", r)
	}
	var found struct {
		Repaired            []sql.Repaired
		Violations, Overdue []sql.Violation
	}
	h.ok(&found, "check", "--repair", "--actor", "Ann", "--reason", "it stood still")
	if len(found.Repaired) != 1 || found.Repaired[0].Rule != "forgotten" || found.Repaired[0].SagaID != id || len(found.Violations)+len(found.Overdue) > 0 {
		t.Errorf("repaired: %+v", found)
	}
	var written bool
	if err := pool.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pgsagaz.audit WHERE saga_id = $1 AND verb = 'repair' AND actor = 'Ann' AND reason = 'it stood still')`, id).Scan(&written); err != nil || !written {
		t.Errorf("it does not stand in the audit, %v", err)
	}
	contains(t, h.text("check", "--repair"), "no row exists that must not")

	// Nobody has the code of it: after a while that is told, and is nothing that a repair could help.
	if _, err := pool.Exec(t.Context(), `UPDATE pgsagaz.command SET created_at = now() - interval '1 hour'`); err != nil {
		t.Fatal(err)
	}
	if r := h.run("check", "--repair", "--patience", "30m"); r.code != exitFailed || !strings.Contains(r.stdout, "no live worker has ghost version 1") {
		t.Errorf("check: %+v", r)
	}
	contains(t, h.text("check", "--patience", "2h"), "no row exists that must not")
	if r := h.run("check", "--patience", "0s"); r.code != exitUsage || !strings.Contains(r.stderr, "--patience") {
		t.Errorf("no patience at all: %+v", r)
	}
}

func TestVersion(t *testing.T) {
	h := newTheatre(t, "")
	var v struct {
		Schema int
		Go     string
	}
	h.ok(&v, "version")
	if v.Schema != sql.Version() || v.Go == "" {
		t.Errorf("version: %+v", v)
	}
	contains(t, h.text("version"), "schema", "go1")
	contains(t, h.text(), "Available Commands")
}

func TestMistakes(t *testing.T) {
	h := newTheatre(t, sqltest.URL(t))
	const id = "01900000-0000-7000-8000-000000000001"
	for args, c := range map[string]struct {
		code int
		said string
	}{
		"sagas":                                            {exitUsage, `unknown command "sagas"`},
		"saga nonsense":                                    {exitUsage, `unknown command "nonsense"`},
		"saga list --nonsense":                             {exitUsage, "--nonsense"},
		"saga list extra":                                  {exitUsage, "extra"},
		"saga list --state sleeping":                       {exitUsage, `"sleeping" is no state`},
		"saga list --limit -1":                             {exitUsage, "--limit"},
		"saga list --limit many":                           {exitUsage, "many"},
		"saga list --older-than yesterday":                 {exitUsage, "yesterday"},
		"saga list --after 17":                             {exitUsage, "17"},
		"saga show":                                        {exitUsage, "id of one saga"},
		"saga show 17":                                     {exitUsage, `"17" is not the id`},
		"saga show " + id:                                  {exitFailed, "no such saga"},
		"saga cancel " + id:                                {exitFailed, id},
		"saga retry " + id:                                 {exitFailed, id},
		"saga start":                                       {exitUsage, "1 arg"},
		"saga start ticket":                                {exitUsage, "--input is missing"},
		`saga start ticket --input {"a":}`:                 {exitUsage, "line 1, column 6"},
		"saga start ticket --input @/none/of/this":         {exitFailed, "/none/of/this"},
		"saga start ticket --input {} --timeout -1s":       {exitUsage, "--timeout"},
		"saga start nobody --input {}":                     {exitFailed, "unknown saga nobody"},
		"saga plan":                                        {exitUsage, "1 arg"},
		"saga plan ticket --version -1":                    {exitUsage, "--version"},
		"saga plan nobody":                                 {exitFailed, "definition of nobody"},
		"saga plan ticket --version 9":                     {exitFailed, "ticket version 9"},
		"saga graph nobody":                                {exitFailed, "unknown saga"},
		"saga graph ticket --version -1":                   {exitUsage, "--version"},
		"saga versions nobody":                             {exitFailed, "versions of nobody"},
		"saga versions a b":                                {exitUsage, "at most 1 arg"},
		"saga signal ticket=7":                             {exitUsage, "between 2 and 3"},
		"saga signal 17 go":                                {exitUsage, "neither the id of a saga nor NAME=KEY"},
		"saga signal =7 go":                                {exitUsage, "neither the id of a saga nor NAME=KEY"},
		"saga signal ticket=none go":                       {exitFailed, "no such saga"},
		"saga signal " + id + " go":                        {exitFailed, "no saga " + id},
		`saga signal ticket=none go {"a"`:                  {exitUsage, "the payload is not JSON: line 1, column 4"},
		"saga resolve " + id + " book":                     {exitUsage, "not 2 arguments"},
		"saga resolve 17 book done":                        {exitUsage, `"17" is not the id`},
		"saga resolve " + id + " book perhaps":             {exitUsage, `"perhaps" is no outcome`},
		"saga resolve " + id + " book done":                {exitFailed, "no such saga"},
		"saga resolve " + id + " book failed --result 1":   {exitUsage, "--result goes with done"},
		"saga resolve " + id + " book done --result maybe": {exitUsage, "--result is not JSON"},
		"worker --lease 1ms":                               {exitUsage, "--lease"},
		"worker --queues =5":                               {exitUsage, "--queues"},
		"worker --queues slow=none":                        {exitUsage, "slow=none"},
		"worker --pool-size 0":                             {exitUsage, "--pool-size"},
		"worker --max-workers 0":                           {exitUsage, "--max-workers"},
		"worker --direct-url nonsense":                     {exitUsage, "--direct-url"},
		"demo --orders 0":                                  {exitUsage, "--orders"},
		"demo --fail-rate 1.5":                             {exitUsage, "--fail-rate"},
		"demo --fail-rate NaN":                             {exitUsage, "--fail-rate"},
		"demo --workers 0":                                 {exitUsage, "--workers"},
		"outbox dead show x":                               {exitUsage, "not the id of a dead letter"},
		"outbox dead show 7":                               {exitFailed, "no such dead letter"},
		"outbox dead redrive 7":                            {exitFailed, "no such dead letter"},
		"outbox dead drop 7 --yes":                         {exitFailed, "no such dead letter"},
		"outbox dead list --limit -1":                      {exitUsage, "--limit"},
		"outbox replay":                                    {exitUsage, "--from"},
		"outbox replay --from 1h --to 2h":                  {exitUsage, "not before"},
		"check --log-level loud":                           {exitUsage, "loud"},
		"check --log-format xml":                           {exitUsage, "xml"},
		"check --database-url nonsense":                    {exitUsage, "--database-url"},
	} {
		t.Run(args, func(t *testing.T) {
			r := h.run(strings.Fields(args)...)
			if r.code != c.code || r.stdout != "" {
				t.Errorf("exit code %d, want %d; stdout %q", r.code, c.code, r.stdout)
			}
			contains(t, r.stderr, "pgsagaz: ", c.said)
			var inJSON struct{ Error string }
			r = h.run(append([]string{"--json"}, strings.Fields(args)...)...)
			if err := json.Unmarshal([]byte(r.stderr), &inJSON); err != nil || inJSON.Error == "" {
				t.Errorf("--json: %v in %q", err, r.stderr)
			}
		})
	}
}

func TestDatabaseIsNotThere(t *testing.T) {
	h := newTheatre(t, "")
	r := h.run("check")
	if r.code != exitUsage {
		t.Errorf("no database: %+v", r)
	}
	contains(t, r.stderr, "--database-url", "PGSAGAZ_DATABASE_URL", "DATABASE_URL")

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	r = h.run("check", "--database-url", "postgres://me:secret@"+address+"/db")
	if r.code != exitFailed || strings.Contains(r.stderr, "secret") {
		t.Errorf("nobody listens: %+v", r)
	}
	contains(t, r.stderr, "the database does not answer", address)

	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if r := h.runWith(ctx, "", "worker", "--database-url", "postgres://me@"+address+"/db"); r.code != exitOK {
		t.Errorf("a worker waits for its database until it is stopped: %+v", r)
	}
}

func TestFlagsBeatVariablesBeatDefaults(t *testing.T) {
	good := sqltest.URL(t)
	const bad = "postgres://nobody@127.0.0.1:1/none"
	for name, c := range map[string]struct {
		env  map[string]string
		flag string
		code int
	}{
		"flag":                    {map[string]string{"PGSAGAZ_DATABASE_URL": bad, "DATABASE_URL": bad}, good, exitOK},
		"our variable":            {map[string]string{"PGSAGAZ_DATABASE_URL": good, "DATABASE_URL": bad}, "", exitOK},
		"the usual variable":      {map[string]string{"DATABASE_URL": good}, "", exitOK},
		"our variable, bad":       {map[string]string{"PGSAGAZ_DATABASE_URL": bad, "DATABASE_URL": good}, "", exitFailed},
		"a flag of another value": {map[string]string{"PGSAGAZ_DATABASE_URL": good}, bad, exitFailed},
	} {
		h := &theatre{t: t, env: c.env}
		args := []string{"check"}
		if c.flag != "" {
			args = append(args, "--database-url", c.flag)
		}
		if r := h.run(args...); r.code != c.code {
			t.Errorf("%s: %+v, want exit code %d", name, r, c.code)
		}
	}
	h := &theatre{t: t, env: map[string]string{"PGSAGAZ_JSON": "true", "PGSAGAZ_DATABASE_URL": good}}
	if r := h.run("check"); !strings.HasPrefix(r.stdout, "{") {
		t.Errorf("PGSAGAZ_JSON: %+v", r)
	}
	if r := h.run("check", "--json=false"); strings.HasPrefix(r.stdout, "{") {
		t.Errorf("--json=false: %+v", r)
	}
	h.env["PGSAGAZ_LEASE"] = "soon"
	r := h.run("worker")
	if r.code != exitUsage {
		t.Errorf("PGSAGAZ_LEASE=soon: %+v", r)
	}
	contains(t, r.stderr, "PGSAGAZ_LEASE", "soon", "--lease")
}

func TestDemo(t *testing.T) {
	h := newTheatre(t, sqltest.URL(t))
	var rep demo.Report
	h.ok(&rep, "demo", "--orders", "30", "--fail-rate", "0.2")
	if !rep.OK || rep.Orders != 30 || rep.Doomed != 6 {
		t.Errorf("%+v", rep)
	}
	contains(t, h.text("demo", "--orders", "10"), "10 orders", "The audit found nothing.")
}

func TestDemoWithAPostgresOfItsOwn(t *testing.T) {
	h := newTheatre(t, "")
	contains(t, h.text("demo", "--orders", "10"), "The audit found nothing.")

	ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
	defer cancel()
	begun := time.Now()
	if r := h.runWith(ctx, "", "demo", "--orders", "100000"); r.code != exitFailed {
		t.Errorf("interrupted: %+v", r)
	}
	if took := time.Since(begun); took > 15*time.Second {
		t.Errorf("it took %v to stop", took)
	}
}

func TestDemoKills(t *testing.T) {
	if testing.Short() {
		t.Skip("takes ten seconds")
	}
	h := newTheatre(t, sqltest.URL(t))
	var rep demo.Report
	h.ok(&rep, "demo", "--orders", "200", "--fail-rate", "0.2", "--kill")
	if !rep.OK || len(rep.Kills) == 0 {
		t.Errorf("%+v", rep)
	}
	for _, k := range rep.Kills {
		for _, o := range k.Takeovers {
			if o.Worker == k.Worker || o.AfterMS <= 0 {
				t.Errorf("takeover of %s: %+v", k.Worker, o)
			}
		}
	}
}
