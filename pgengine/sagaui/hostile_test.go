package sagaui_test

import (
	"encoding/json"
	"html"
	"strings"
	"testing"

	"github.com/pgsagaz/pgsagaz/internal/consoletest"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/pgengine/sagaui"
)

// TestHostileTexts: whatever somebody has written is text, is readable, and is short.
func TestHostileTexts(t *testing.T) {
	t.Parallel()
	w := consoletest.New(t)
	const evil = `</pre><script>alert(1)</script><img src=x onerror=alert(2)>"'` + "`" + `{{.Root}}` + "\u202Eexe.gpj\u2066\u200B"
	id := w.Start(consoletest.Order{ID: "o", Note: evil}, &pgengine.StartOptions{Key: evil, Tags: []string{evil}})
	w.Becomes(id, pgengine.Completed)
	big := jsonOf(strings.Repeat("ä<b>", 10<<20/5))
	quoted, _ := json.Marshal(evil)
	for _, statement := range []struct {
		sql  string
		args []any
	}{
		{`UPDATE pgsagaz.step SET error = $2, note = $2, worker = $2 WHERE saga_id = $1 AND step = 'notify'`, []any{id, evil}},
		{`UPDATE pgsagaz.step SET result = $2::json WHERE saga_id = $1 AND step = 'reserve'`, []any{id, string(quoted)}},
		{`UPDATE pgsagaz.step SET result = $2::json WHERE saga_id = $1 AND step = 'ship'`, []any{id, big}},
		{`INSERT INTO pgsagaz.attempt (saga_id, step, direction, generation, attempt, kind, worker, error, started_at, ended_at)
			VALUES ($1, 'notify', 'do', 1, 1, 'panic', $2, $2, now(), now())`, []any{id, evil}},
		{`INSERT INTO pgsagaz.signal (saga_id, name, key, payload, sent_at) VALUES ($1, $2, $2, $3::json, now())`, []any{id, evil, string(quoted)}},
		{`INSERT INTO pgsagaz.outbox_dead (id, txid, replayed, created_at, slot, bucket, event_id, topic, key, routing_key, type, payload, headers, saga_id, step, attempts, error, stuck_at, holds)
			VALUES (7, '1', false, now(), 0, 0, gen_random_uuid(), $2, $2, $2, $2, convert_to($2, 'UTF8'), jsonb_build_object($2::text, $2::text), $1, $2, 1, $2, now(), false)`, []any{id, evil}},
	} {
		if _, err := w.Pool.Exec(t.Context(), statement.sql, statement.args...); err != nil {
			t.Fatalf("%s: %v", statement.sql, err)
		}
	}
	b := open(t, sagaui.NewHandler(w.Engine, &sagaui.Options{Authorize: sagaui.AllowAll, Logger: quiet}))
	letter := "outbox/" + jsonOf(w.DeadLetter())
	for _, path := range []string{"", "sagas", "sagas/" + id, "outbox", letter, letter + "/do/redrive", "sagas?text=%3Cscript%3E&key=" + "%E2%80%AE", "sagas?state=%3Cscript%3E", "sagas/%3Cscript%3E", "definitions/%3Cscript%3E/1"} {
		a := b.get(path)
		if a.StatusCode >= 500 {
			t.Errorf("%s: %s", path, a.Status)
		}
		if len(a.body) > 200_000 {
			t.Errorf("%s has %d bytes", path, len(a.body))
		}
		for _, bad := range []string{"<script>alert", "<img", "<b>", "\u202e", "\u2066", "\u200b"} {
			if strings.Contains(a.body, bad) {
				i := strings.Index(a.body, bad)
				t.Errorf("%s has %q: %q", path, bad, a.body[max(0, i-80):min(len(a.body), i+80)])
			}
		}
	}
	page := html.UnescapeString(b.sees("sagas/"+id, "⟨U&#43;202E⟩", "&lt;script&gt;alert(1)", "cut: ", "MB in all"))
	if strings.Count(page, "<script>alert(1)</script>") < 5 {
		t.Error("what was written can't be read any more")
	}
	if !strings.Contains(html.UnescapeString(b.sees(letter)), `<script>alert(1)</script>`) {
		t.Error("the dead letter can't be read any more")
	}
}
