// Package browser walks the console with a real browser. It is a module of its own, so that nobody's go.mod knows of
// browsers. Without a Chromium it skips, and without axe-core it does not look at accessibility, unless PGSAGAZ_TEST_BROWSER is
// "required".
package browser

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/pgsagaz/pgsagaz/internal/consoletest"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/pgengine/sagaui"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

func TestMain(m *testing.M) { os.Exit(sqltest.Main(m)) }

// chromium is where it is; "": there is none.
func chromium() string {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// missing fails where all of it has to be there.
func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("PGSAGAZ_TEST_BROWSER") == "required" {
		t.Fatal(what)
	}
}

// walk is a tab at a console.
type walk struct {
	t   *testing.T
	ctx context.Context
	url string
}

func start(t *testing.T, w *consoletest.World) *walk {
	t.Helper()
	program := chromium()
	if program == "" {
		missing(t, "no chromium on this machine")
		t.Skip("no chromium on this machine")
	}
	server := httptest.NewServer(sagaui.NewHandler(w.Engine, &sagaui.Options{Authorize: sagaui.AllowAll, Refresh: time.Second}))
	t.Cleanup(server.Close)
	options := append([]chromedp.ExecAllocatorOption{}, chromedp.DefaultExecAllocatorOptions[:]...)
	options = append(options, chromedp.ExecPath(program), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-sync", true), chromedp.Flag("disable-dev-shm-usage", true),
		// Whatever a page asks of another host fails.
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
		chromedp.WSURLReadTimeout(time.Minute), chromedp.WindowSize(1280, 900))
	ctx, stop := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(stop)
	ctx, stop = chromedp.NewContext(ctx)
	t.Cleanup(stop)
	ctx, stop = context.WithTimeout(ctx, 8*time.Minute)
	t.Cleanup(stop)
	return &walk{t, ctx, server.URL + "/"}
}

func (w *walk) do(actions ...chromedp.Action[chromedp.Void]) {
	w.t.Helper()
	if err := chromedp.Do(w.ctx, actions...); err != nil {
		w.t.Fatal(err)
	}
}

func (w *walk) to(path string) {
	w.t.Helper()
	w.do(chromedp.Navigate(w.url+path), chromedp.WaitReady("main"))
}

// js gives what an expression is on the page.
func js[T any](w *walk, expression string) T {
	w.t.Helper()
	v, err := chromedp.Run(w.ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		w.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// patience is how long a page that must change may take on a machine that does much else.
const patience = 2 * time.Minute

// until waits until an expression is true on the page, which renews itself meanwhile.
func (w *walk) until(what, expression string) {
	w.t.Helper()
	for begin := time.Now(); !js[bool](w, "Boolean("+expression+")"); time.Sleep(30 * time.Millisecond) {
		if time.Since(begin) > patience {
			w.shoot("failed")
			w.t.Fatalf("the page never shows that %s:\n%s", what, js[string](w, "document.body.innerText"))
		}
	}
}

// click follows a link, or presses a button, and waits for the page that it leads to.
func (w *walk) click(words string) {
	w.t.Helper()
	quoted, _ := json.Marshal(words)
	found := `[...document.querySelectorAll("main a, main button, nav a")].find((e) => e.innerText.trim().startsWith(` + string(quoted) + `))`
	w.until("there is "+words, found)
	was := js[float64](w, "performance.timeOrigin")
	js[bool](w, found+".click() || true")
	for begin := time.Now(); js[float64](w, "performance.timeOrigin") == was || js[string](w, "document.readyState") != "complete"; time.Sleep(20 * time.Millisecond) {
		if time.Since(begin) > patience {
			w.t.Fatalf("%s leads nowhere", words)
		}
	}
}

// reason types one into the form.
func (w *walk) reason(words string) {
	w.t.Helper()
	w.do(chromedp.SendKeys("#reason", words))
}

// shots is where pictures go, for people to look at: go test -args -shots=DIR. "": nowhere.
var shots = flag.String("shots", "", "a directory for pictures of the pages")

func (w *walk) shoot(name string) {
	w.t.Helper()
	if *shots == "" {
		return
	}
	png, err := chromedp.Run(w.ctx, chromedp.FullScreenshot(100))
	if err == nil {
		err = os.WriteFile(filepath.Join(*shots, name+".png"), png, 0o644)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// axe is the accessibility checker, as npm has put it here.
func axe(t *testing.T) string {
	t.Helper()
	source, err := os.ReadFile("node_modules/axe-core/axe.min.js")
	if err != nil {
		missing(t, "no axe-core here: npm install puts it here")
		t.Log("no axe-core here (npm install puts it here): accessibility is not checked")
		return ""
	}
	return string(source)
}

// accessible runs axe on the page as it is.
func (w *walk) accessible(axe, what string) {
	w.t.Helper()
	if axe == "" {
		return
	}
	js[bool](w, axe+";true")
	js[bool](w, `(axe.run(document, {resultTypes: ["violations"]}).then((r) => { window.axed = JSON.stringify(
		r.violations.map((v) => v.impact + ": " + v.id + ", " + v.help + ": " + v.nodes.map((n) => n.html.slice(0, 160) + " " + n.failureSummary).join(" | "))); }), window.axed = "", true)`)
	w.until("axe has looked", "window.axed")
	var found []string
	if err := json.Unmarshal([]byte(js[string](w, "window.axed")), &found); err != nil {
		w.t.Fatal(err)
	}
	for _, f := range found {
		if strings.HasPrefix(f, "serious") || strings.HasPrefix(f, "critical") {
			w.t.Errorf("%s: %s", what, f)
		} else {
			w.t.Logf("%s: %s", what, f)
		}
	}
}

func TestWalk(t *testing.T) {
	world := consoletest.New(t)
	world.CarrierDown.Store(true)
	world.BrokerDown.Store(true)
	for i := range 12 {
		id := world.Start(consoletest.Order{ID: fmt.Sprintf("o-%d", 100+i), Cents: 1000 + i}, &pgengine.StartOptions{Key: fmt.Sprintf("order-%d", 100+i), Tags: []string{"shop:paris"}})
		if i == 4 {
			world.Becomes(id, pgengine.Stuck)
			world.CarrierDown.Store(false)
		}
	}
	world.Pace.Store(40)
	trip := world.Start(consoletest.Trip{To: "Rome", Stops: 3}, &pgengine.StartOptions{Tags: []string{"summer"}})
	world.Awaits(trip)
	letter := world.DeadLetter()
	w := start(t, world)
	checker := axe(t)

	// Find the stuck saga, read why, retry it, and see it complete.
	w.to("")
	w.until("sagas are stuck", `document.body.innerText.includes("wait for an operator")`)
	w.accessible(checker, "the overview")
	w.shoot("overview")
	w.click("Sagas")
	w.shoot("list")
	w.accessible(checker, "the list")
	w.click("stuck")
	w.until("only stuck ones are listed", `[...document.querySelectorAll("tbody .state")].every((e) => e.innerText === "stuck")`)
	id := js[string](w, `document.querySelector("tbody a.id").innerText`)
	w.click(id)
	w.until("ship has given up", `document.querySelector(".stuck").innerText.includes("ship has given up") && document.querySelector(".stuck").innerText.includes("no lorry today")`)
	w.accessible(checker, "a stuck saga")
	w.shoot("stuck")
	w.click("Try again")
	w.until("the page says what will happen", `document.querySelector(".foretold").innerText.includes("ship is tried again")`)
	w.accessible(checker, "a form")
	w.shoot("confirm")
	w.reason("the lorry is back")
	w.click("Try again")
	w.until("the saga has completed, without anybody reloading", `document.querySelector(".head").dataset.state === "completed" && document.getElementById("said") !== null`)

	// Cancel another, and watch the way back light up.
	release := world.HoldUndos()
	w.to("sagas/" + trip)
	w.until("it waits for the signal", `document.body.innerText.includes("waits for the signal confirmed")`)
	w.shoot("running")
	w.click("Cancel")
	w.until("the page says what will be undone", `/Undone first: .*hotel/.test(document.querySelector(".foretold").innerText)`)
	w.reason("no holiday this year")
	w.click("Cancel")
	w.until("the way back is lit", `document.querySelector("path.undo.lit")`)
	w.shoot("undoing")
	w.accessible(checker, "a saga that turns back")
	release()
	w.until("all of it has been gone", `document.querySelector(".head").dataset.state === "compensated" && document.querySelectorAll("path.undo.went").length >= 3`)
	w.until("it was said aloud", `document.getElementById("said").innerText.includes("compensated")`)
	w.shoot("undone")

	// Redrive a dead letter.
	world.BrokerDown.Store(false)
	w.to("outbox")
	w.accessible(checker, "the outbox")
	w.shoot("outbox")
	w.click(fmt.Sprint(letter))
	w.until("it says why", `document.querySelector(".stuck").innerText.includes("not known here")`)
	w.click("Redrive")
	w.reason("the topic is there")
	w.click("Redrive")
	w.until("it is gone", `![...document.querySelectorAll("tbody a")].some((e) => e.innerText === "`+fmt.Sprint(letter)+`")`)

	w.to("definitions/order/2")
	w.accessible(checker, "a definition")
	w.shoot("definition")
	w.to("inbox")
	w.accessible(checker, "the inbox")
	w.do(chromedp.EmulateViewport(390, 800))
	w.to("sagas/" + trip)
	w.until("it fits a phone", `document.documentElement.scrollWidth <= 392`)
	w.shoot("phone")
}
