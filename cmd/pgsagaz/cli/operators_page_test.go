package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

type seat struct {
	Seat string `json:"seat"`
	Slow bool   `json:"slow,omitempty"`
}

func (seat) SagaName() string { return "ticket" }

// house is where tickets are sold.
type house struct {
	fire, closed atomic.Bool
	hold         chan struct{} // the slow order waits for it
}

func (h *house) ticket() pgengine.Definition {
	type call = pgengine.Call[seat]
	hold := pgengine.TxStep[seat, string]{
		Name: "hold",
		Do:   func(_ context.Context, _ pgx.Tx, c call) (string, error) { return "seat " + c.Input.Seat, nil },
		Undo: func(context.Context, pgx.Tx, call, string) error { return nil },
	}
	check := pgengine.Activity[seat, bool]{
		Name: "check", After: pgengine.Steps(hold),
		Do: func(_ context.Context, c call) (bool, error) {
			if c.Input.Slow {
				<-h.hold
			}
			return true, nil
		},
	}
	charge := pgengine.Activity[seat, string]{
		Name: "charge", After: pgengine.Steps[seat](check), UndoRetry: pgengine.Retry{MaxAttempts: 3, Initial: time.Millisecond, Max: time.Millisecond},
		Do: func(context.Context, call) (string, error) { return "payment 17", nil },
		Undo: func(context.Context, call, string) error {
			if h.closed.Load() {
				return errors.New("bank: refunds are closed")
			}
			return nil
		},
	}
	printing := pgengine.Activity[seat, string]{
		Name: "print", After: pgengine.Steps[seat](charge),
		Do: func(context.Context, call) (string, error) {
			if h.fire.Load() {
				return "", pgengine.Terminal(errors.New("printer on fire"))
			}
			return "ticket", nil
		},
	}
	return pgengine.Saga[seat]{Version: 1, Output: printing, Steps: pgengine.Steps[seat](hold, check, charge, printing)}
}

var (
	anID       = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	aDate      = regexp.MustCompile(`\d{4}-\d\d-\d\d`)
	aTime      = regexp.MustCompile(`\d\d:\d\d:\d\d(\.\d\d\d)?`)
	aSpan      = regexp.MustCompile(`\b(\d+m)?\d+(\.\d+)?(µs|ms|s)\b|\b\d+m\b`)
	someSpaces = regexp.MustCompile(` {2,}`)
)

// names gives ids the names that the page has for them, and back.
type names struct{ real []string }

func (n *names) page(text string) string {
	return anID.ReplaceAllStringFunc(text, func(id string) string {
		for i, known := range n.real {
			if known == id {
				return pageID(i)
			}
		}
		n.real = append(n.real, id)
		return pageID(len(n.real) - 1)
	})
}

func pageID(i int) string { return fmt.Sprintf("01900000-0000-7000-8000-%012d", i+1) }

func (n *names) command(text string) string {
	for i, id := range n.real {
		text = strings.ReplaceAll(text, pageID(i), id)
	}
	return text
}

// plain is what must be the same each time.
func plainOutput(text string) string {
	text = aTime.ReplaceAllString(aDate.ReplaceAllString(text, "DATE"), "TIME")
	text = someSpaces.ReplaceAllString(aSpan.ReplaceAllString(text, "SPAN"), "  ")
	return strings.ReplaceAll(text, " \n", "\n")
}

// TestOperatorsPage runs the commands of docs/operators.md, and compares what they print with what the page shows.
func TestOperatorsPage(t *testing.T) {
	const file = "../../../docs/operators.md"
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := &house{hold: make(chan struct{})}
	url := sqltest.URL(t)
	run := func(ctx context.Context, args ...string) string {
		var out lockedBuffer
		code := Program{Sagas: []pgengine.Definition{at.ticket()}}.Run(ctx, Streams{
			Args: args, Getenv: func(k string) string { return map[string]string{"PGSAGAZ_DATABASE_URL": url}[k] },
			Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out,
		})
		if code != exitOK {
			return out.String() + fmt.Sprintf("exit status %d\n", code)
		}
		return out.String()
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		run(ctx, "worker", "--worker-id", "w1", "--grace", "1s", "--log-level", "error")
	}()
	defer func() { stop(); <-ended }()
	until := func(state string, args ...string) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !strings.Contains(run(t.Context(), args...), state); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%v never shows %q:\n%s", args, state, run(t.Context(), args...))
			}
		}
	}
	events := map[string]func(){
		"the printer burns and the bank is closed": func() {
			at.fire.Store(true)
			at.closed.Store(true)
			until(`"id"`, "saga", "start", "ticket", "--input", `{"seat": "7"}`, "--key", "order-7", "--json")
			until("order-7", "saga", "list", "--state", "stuck")
		},
		"another order is about to be charged": func() {
			until(`"id"`, "saga", "start", "ticket", "--input", `{"seat": "8", "slow": true}`, "--key", "order-8", "--json")
			until("check is running", "saga", "show", onlyID(run(t.Context(), "saga", "list", "--key", "order-8")))
		},
		"the bank opens and the printer is new": func() {
			at.fire.Store(false)
			at.closed.Store(false)
			close(at.hold)
		},
	}

	ids := &names{}
	var page strings.Builder
	inside, happened := false, 0
	for line := range strings.Lines(string(raw)) {
		switch text := strings.TrimRight(line, "\n"); {
		case strings.HasPrefix(text, "<!-- "):
			happen := events[strings.TrimSuffix(strings.TrimPrefix(text, "<!-- "), " -->")]
			if happen == nil {
				t.Fatalf("nobody knows what happens at %q", text)
			}
			happen()
			happened++
			page.WriteString(line)
		case text == "```console":
			inside = true
			page.WriteString(line)
		case inside && text == "```":
			inside = false
			page.WriteString(line)
		case inside && strings.HasPrefix(text, "$ pgsagaz "):
			page.WriteString(line)
			out := run(t.Context(), shellWords(ids.command(strings.TrimPrefix(text, "$ pgsagaz ")))...)
			page.WriteString(ids.page(trimmed(out)))
		case inside: // what it printed last time
		default:
			page.WriteString(line)
		}
	}
	if happened != len(events) {
		t.Errorf("%d of %d things happened", happened, len(events))
	}
	if *update {
		if err := os.WriteFile(file, []byte(page.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, want := strings.Split(plainOutput(page.String()), "\n"), strings.Split(plainOutput(string(raw)), "\n")
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got) || i >= len(want):
			t.Fatalf("docs/operators.md has %d lines, and now there are %d; if that is right: go test ./cmd/pgsagaz/cli -run TestOperatorsPage -update", len(want), len(got))
		case got[i] != want[i]:
			t.Fatalf("docs/operators.md, line %d, says\n%s\nand it is\n%s\nif that is right: go test ./cmd/pgsagaz/cli -run TestOperatorsPage -update", i+1, want[i], got[i])
		}
	}
}

// onlyID is the one id in text.
func onlyID(text string) string { return anID.FindString(text) }

// trimmed has no blanks at the ends of lines.
func trimmed(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return b.String()
}

// shellWords splits a command line as a shell does, as far as the pages need it: quotes of either kind, around whole words.
func shellWords(line string) (args []string) {
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimSpace(line) {
		end := " "
		if quote := line[:1]; quote == "'" || quote == `"` {
			line, end = line[1:], quote
		}
		var word string
		word, line, _ = strings.Cut(line, end)
		args = append(args, word)
	}
	return args
}
