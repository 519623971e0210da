package cli

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/pgengine/sagaui"
)

// console is what serves the pages. Its run ends when ctx does, once the requests under way have ended.
type console struct {
	url      string
	listener net.Listener
	handler  http.Handler
}

// openConsole listens at --console. nil: nobody has asked for it.
func (a *app) openConsole(ctx context.Context, engine *pgengine.Engine) (*console, error) {
	if a.cfg.console == "" {
		return nil, nil
	}
	host, port, err := net.SplitHostPort(a.cfg.console)
	if err != nil {
		return nil, usagef("--console: %q is not of the form host:port, or :port for this machine alone: %w", a.cfg.console, err)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	if a.cfg.consoleToken == "" && !loopback(host) {
		return nil, usagef("--console: %s can be reached from elsewhere: it needs --console-token", a.cfg.console)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, fmt.Errorf("open the console: %w", err)
	}
	pages := sagaui.NewHandler(engine, &sagaui.Options{Authorize: sagaui.AllowAll, Logger: a.logger(slog.LevelInfo)})
	return &console{"http://" + listener.Addr().String() + "/", listener, guard(pages, a.cfg.consoleToken, listener.Addr().String())}, nil
}

// guard lets in who knows the token: as a bearer token, or as the password of basic auth, whose user is then the actor of what he
// does. Without one, whoever reaches this machine may.
func guard(next http.Handler, token, address string) http.Handler {
	if token == "" {
		return atHome(next, address)
	}
	want := sha256.Sum256([]byte(token))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		given, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !bearer {
			_, given, _ = r.BasicAuth()
		}
		if got := sha256.Sum256([]byte(given)); subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			w.Header().Set("WWW-Authenticate", `Basic realm="pgsagaz", charset="UTF-8"`)
			http.Error(w, "The console takes a token.", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (c *console) run(ctx context.Context) error {
	server := &http.Server{Handler: c.handler, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, WriteTimeout: time.Minute, IdleTimeout: 2 * time.Minute}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(c.listener) }()
	select {
	case err := <-ended:
		return fmt.Errorf("the console: %w", err)
	case <-ctx.Done():
	}
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := server.Shutdown(patience); err != nil {
		_ = server.Close() // somebody reads too slowly
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("the console: %w", err)
	}
	return nil
}
