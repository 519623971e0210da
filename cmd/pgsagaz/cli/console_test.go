package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/pgsagaz/pgsagaz/cmd/pgsagaz/demo"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

func TestGuard(t *testing.T) {
	t.Parallel()
	inside := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "inside") })
	for _, c := range []struct {
		name, token, host, header string
		basic                     string
		code                      int
	}{
		{name: "no token is asked for", host: "127.0.0.1:9", code: 200},
		{name: "by the machine's own name", host: "localhost:9", code: 200},
		{name: "by IPv6", host: "[::1]:9", code: 200},
		{name: "through somebody else's DNS", host: "evil.example:9", code: 421},
		{name: "no token", token: "abc", host: "shop.example", code: 401},
		{name: "a wrong token", token: "abc", host: "shop.example", header: "Bearer abd", code: 401},
		{name: "an empty one", token: "abc", host: "shop.example", header: "Bearer ", code: 401},
		{name: "the token", token: "abc", host: "shop.example", header: "Bearer abc", code: 200},
		{name: "as a password", token: "abc", host: "shop.example", basic: "abc", code: 200},
		{name: "a wrong password", token: "abc", host: "shop.example", basic: "abcd", code: 401},
	} {
		r := httptest.NewRequest("GET", "http://"+c.host+"/", nil)
		if c.header != "" {
			r.Header.Set("Authorization", c.header)
		}
		if c.basic != "" {
			r.SetBasicAuth("ann", c.basic)
		}
		w := httptest.NewRecorder()
		guard(inside, c.token, "127.0.0.1:9").ServeHTTP(w, r)
		if w.Code != c.code || (w.Body.String() == "inside") != (c.code == 200) {
			t.Errorf("%s: %d %s", c.name, w.Code, w.Body)
		}
	}
}

// TestWorkerConsole: a worker serves the console where it says, to who has the token, until it is stopped.
func TestWorkerConsole(t *testing.T) {
	t.Parallel()
	url := sqltest.URL(t)
	sold := Program{Sagas: []pgengine.Definition{demo.Fulfil(&demo.BankClient{}, demo.Mail{})}}
	for address, says := range map[string]string{"nowhere": "is not of the form host:port", "0.0.0.0:0": "needs --console-token"} {
		var out, complaint bytes.Buffer
		code := sold.Run(t.Context(), Streams{Args: []string{"worker", "--console", address, "--database-url", url}, Getenv: func(string) string { return "" }, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &complaint})
		if code != exitUsage || !strings.Contains(complaint.String(), says) {
			t.Errorf("%s: %d %s", address, code, complaint.String())
		}
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	events, out := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		code := sold.Run(ctx, Streams{
			Args:   []string{"worker", "--json", "--console", ":0", "--database-url", url, "--log-level", "error"},
			Getenv: func(name string) string { return map[string]string{"PGSAGAZ_CONSOLE_TOKEN": "abc"}[name] },
			Stdin:  strings.NewReader(""), Stdout: out, Stderr: io.Discard,
		})
		_ = out.Close()
		ended <- code
	}()
	var e workerEvent
	lines := json.NewDecoder(events)
	if err := lines.Decode(&e); err != nil || !strings.HasPrefix(e.Console, "http://127.0.0.1:") {
		t.Fatalf("%+v, %v", e, err)
	}
	get := func(token string) int {
		r, err := http.NewRequestWithContext(ctx, "GET", e.Console+"api/v1/sagas", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		return answer.StatusCode
	}
	if with, without := get("abc"), get("nope"); with != 200 || without != 401 {
		t.Errorf("with the token %d, without %d", with, without)
	}
	stop()
	_ = lines.Decode(&e)
	if code := <-ended; code != exitOK {
		t.Errorf("exit code %d", code)
	}
}
