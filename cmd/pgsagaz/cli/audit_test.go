package cli

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// Whatever an operator does stands in the audit: what is no saga's, too.
func TestAudit(t *testing.T) {
	pool := sqltest.New(t)
	h := newTheatre(t, pool.Config().ConnString())
	key, err := codec.NewKey("k1")
	if err != nil {
		t.Fatal(err)
	}
	h.env["PGSAGAZ_CODEC_KEYS"] = key
	h.env["LOGNAME"] = "ann" // who it is, unless he says it
	contains(t, h.text("audit", "list"), "nothing")

	// Two dead letters of the outbox, three of the inbox, a subject: as relays, consumers and starts leave them.
	if _, err := pool.Exec(t.Context(), `
		SELECT pgsagaz.publish('t', 'x', 'the-key');
		SELECT pgsagaz.publish('t', 'x', 'the-key');
		INSERT INTO pgsagaz.outbox_dead SELECT o.*, 5, 'no', now(), now(), false FROM pgsagaz.outbox o`); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := pool.Exec(t.Context(), `
			WITH e AS (SELECT pgsagaz.uuid7() AS id), claimed AS (SELECT pgsagaz.inbox_claim('mailer', e.id::text) FROM e)
			INSERT INTO pgsagaz.inbox_dead (consumer_name, event_id, message_id, source, attempt, source_topic, key, event_type, payload, headers, traceparent, reason, error, attempts, first_at)
			SELECT 'mailer', e.id, e.id::text, '', '', 'orders', 'the-key', 'placed', 'x', '{}', '', 'terminal', 'no', 1, now() FROM e, claimed`); err != nil {
			t.Fatal(err)
		}
	}
	ring, err := codec.ParseKeys(key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := codec.New(codec.Config{Keyring: ring})
	if err != nil {
		t.Fatal(err)
	}
	subject, err := c.KeyOf(t.Context(), pool, "mary@example.org")
	if err != nil {
		t.Fatal(err)
	}
	var letters struct{ Dead []outbox.Dead }
	h.ok(&letters, "outbox", "dead", "list")
	first, second := fmt.Sprint(letters.Dead[1].ID), fmt.Sprint(letters.Dead[0].ID)

	add := []string{"schedule", "add", "nightly", "--cron", "0 3 * * *", "--saga", "ticket", "--input", `{"id": "mary"}`, "--reason", "the board wants it"}
	h.text(add...)
	h.text(add...) // changes nothing
	h.text("schedule", "add", "nightly", "--cron", "0 4 * * *", "--saga", "ticket", "--input", `{"id": "mary"}`, "--actor", "bob")
	h.text("schedule", "pause", "nightly", "--reason", "a freeze")
	h.text("schedule", "pause", "nightly")
	h.text("schedule", "resume", "nightly")
	h.text("schedule", "resume", "nightly")
	h.text("schedule", "rm", "nightly", "--actor", "bob")
	h.text("outbox", "dead", "redrive", first, "--reason", "the topic is there now")
	h.text("outbox", "dead", "drop", second, "--yes")
	h.text("outbox", "replay", "--from", "1h", "--topic", "t", "--reason", "for the new consumer")
	h.text("inbox", "dead", "redrive", "3", "--actor", "bob", "--reason", "mended")
	h.text("inbox", "dead", "drop", "--all", "--cause", "terminal", "--reason", "all spam")
	h.text("codec", "rotate")
	h.text("saga", "erase", "--subject", "mary@example.org", "--reason", "letter of 3 May")
	h.text("saga", "erase", "--subject", "mary@example.org", "--reason", "once more")

	type page struct {
		Audit []pgengine.AuditEntry
		Next  int64
	}
	say := func(args ...string) (lines []string, p page) {
		h.ok(&p, append([]string{"audit", "list"}, args...)...)
		for _, x := range p.Audit {
			lines = append(lines, strings.TrimSpace(fmt.Sprint(x.About, " ", x.Thing, " ", x.Verb, " ", x.Answer, " ", x.Actor)))
			if x.Login == "" || x.At.IsZero() || x.AnsweredAt == nil {
				t.Errorf("%+v", x)
			}
		}
		return lines, p
	}
	want := []string{
		"schedule nightly add obeyed ann", "schedule nightly change obeyed bob", "schedule nightly pause obeyed ann", "schedule nightly pause already ann",
		"schedule nightly resume obeyed ann", "schedule nightly resume already ann", "schedule nightly rm obeyed bob",
		"outbox " + first + " redrive obeyed ann", "outbox " + second + " drop obeyed ann", "outbox  replay obeyed ann",
		"inbox 3 redrive obeyed bob", "inbox 1 drop obeyed ann", "inbox 2 drop obeyed ann", "inbox 3 drop obeyed ann",
		"codec  rotate obeyed ann", "codec " + subject.String() + " erase obeyed ann", "codec " + subject.String() + " erase already ann",
	}
	same := func(what string, got, want []string) {
		t.Helper()
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%s:\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	got, all := say("--limit", "0")
	same("all", got, want)
	for _, x := range []struct{ text, want string }{
		{string(all.Audit[0].Details), `"cron": "0 3 * * *"`}, {all.Audit[0].Reason, "the board wants it"},
		{string(all.Audit[8].Details), letters.Dead[0].EventID.String()}, {all.Audit[9].Why, "0 messages"}, {all.Audit[14].Why, "0 data keys"},
	} {
		contains(t, x.text, x.want)
	}
	var pages []string
	for before := "0"; before != ""; {
		lines, p := say("--limit", "5", "--before", before)
		pages = append(lines, pages...)
		if before = ""; p.Next != 0 {
			before = fmt.Sprint(p.Next)
		}
	}
	same("in pages", pages, want)
	got, _ = say("--about", "schedule", "--thing", "nightly", "--who", "bob")
	same("of bob", got, []string{want[1], want[6]})
	got, _ = say("--verb", "drop", "--since", "1h")
	same("drops", got, []string{want[8], want[11], want[12], want[13]})
	got, _ = say("--until", "1h")
	same("before an hour", got, nil)
	got, _ = say("--subject", "mary@example.org")
	same("of a subject", got, want[15:])
	contains(t, h.text("audit", "list", "--limit", "3"), "WHO", "0 data keys", "letter of 3 May", "there may be more: --before")

	// Neither payloads, nor the keys of messages, nor who was erased.
	var text string
	if err := pool.QueryRow(t.Context(), `SELECT string_agg(a::text, ' ') FROM pgsagaz.audit a`).Scan(&text); err != nil {
		t.Fatal(err)
	}
	for _, hidden := range []string{"mary", "the-key"} {
		if strings.Contains(text, hidden) {
			t.Errorf("%q stands in the audit: %s", hidden, text)
		}
	}
	for said, args := range map[string][]string{
		"--about": {"--about", "weather"}, "--saga": {"--saga", "7"}, "--subject": {"--subject", "x", "--thing", "y"}, "--limit": {"--limit", "-1"}, "--since": {"--since", "soon"},
	} {
		if r := h.run(append([]string{"audit", "list"}, args...)...); r.code != exitUsage || !strings.Contains(r.stderr, said) {
			t.Errorf("%v: %+v", args, r)
		}
	}
}

// An act and its audit are one transaction's.
func TestAnActThatIsRolledBackIsNotAudited(t *testing.T) {
	pool := sqltest.New(t)
	if _, err := pool.Exec(t.Context(), `SELECT pgsagaz.publish('t', 'x', 'k');
		INSERT INTO pgsagaz.outbox_dead SELECT o.*, 5, 'no', now(), now(), false FROM pgsagaz.outbox o`); err != nil {
		t.Fatal(err)
	}
	var id int64
	if err := pool.QueryRow(t.Context(), `SELECT id FROM pgsagaz.outbox_dead`).Scan(&id); err != nil {
		t.Fatal(err)
	}
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := outbox.Drop(t.Context(), tx, id, outbox.By{Actor: "ann"}); err != nil {
		t.Fatal(err)
	}
	audited := func(db sql.Querier) (n int) {
		if err := db.QueryRow(t.Context(), `SELECT count(*) FROM pgsagaz.audit`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if inside, outside := audited(tx), audited(pool); inside != 1 || outside != 0 {
		t.Errorf("%d inside, %d outside", inside, outside)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := audited(pool); n != 0 {
		t.Errorf("%d after the rollback", n)
	}
}
