package cli

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"

	"github.com/pgsagaz/pgsagaz/outbox"
)

// check is everything that is wrong with values beyond their types, for the flags that has tells of. owns tells which schemes of
// brokers are the program's own.
func (c *config) check(has func(flag string) bool, owns func(scheme string) bool) []error {
	rows := []struct {
		flag  string
		wrong error
	}{
		{"database-url", tryDSN(c.databaseURL, func(s string) error { _, err := pgxpool.ParseConfig(s); return err })},
		{"direct-url", tryDSN(c.directURL, func(s string) error { _, err := pgx.ParseConfig(s); return err })},
		{"wait-for-database", atLeast(c.waitForDatabase, 0)},
		{"server", serverProblem(c.server)},
		{"log-level", logLevel(c.logLevel)},
		{"log-format", oneOf(c.logFormat, "text", "json")},

		{"otlp-endpoint", otlpProblem(c.otlpEndpoint)},
		{"otlp-headers", second(parseHeaders(c.otlpHeaders))},
		{"otlp-sample", between(c.otlpSample, 0, 1)},

		{"pool-size", between(c.poolSize, 1, 1<<15)},
		{"max-workers", between(c.maxWorkers, 1, river.QueueNumWorkersMax)},
		{"queues", second(parseQueues(c.queues))},
		{"lease", atLeast(c.lease, time.Second)},
		{"grace", atLeast(c.grace, 0)},
		{"poll", zeroOrAtLeast(c.poll, time.Millisecond)},
		{"sweep", atLeast(c.sweep, time.Millisecond)},
		{"keep-archive", atLeast(c.keepArchive, 0)},
		{"only", oneOf(c.only, "", "sagas", "relay")},
		{"only", c.relayHasBroker()},
		{"broker", tryBroker(c.broker, owns)},
		{"relay-lease", atLeast(c.relayLease, 500*time.Millisecond)},
		{"rejected-attempts", atLeast(c.rejectedAttempts, 1)},
		{"on-rejected", oneOf(c.onRejected, string(outbox.GiveUp), string(outbox.Hold))},
		{"keep-messages", atLeast(c.keepMessages, 0)},
		{"max-pending", atLeast(c.maxPending, 0)},

		{"orders", between(c.orders, 1, 100_000)},
		{"fail-rate", between(c.failRate, 0, 1)},
		{"workers", between(c.demoWorkers, 1, 8)},
	}
	var wrong []error
	for _, row := range rows {
		if row.wrong != nil && has(row.flag) {
			wrong = append(wrong, fmt.Errorf("--%s: %w", row.flag, row.wrong))
		}
	}
	return wrong
}

// zeroOrAtLeast is atLeast where 0 stands for the default.
func zeroOrAtLeast[T cmp.Ordered](v, least T) error {
	var zero T
	if v == zero {
		return nil
	}
	return atLeast(v, least)
}

func atLeast[T cmp.Ordered](v, least T) error {
	if v < least {
		return fmt.Errorf("%v is below %v", v, least)
	}
	return nil
}

func between[T cmp.Ordered](v, least, most T) error {
	if v >= least && v <= most { // NaN is neither
		return nil
	}
	return fmt.Errorf("%v is not between %v and %v", v, least, most)
}

func oneOf(v string, choices ...string) error {
	if slices.Contains(choices, v) {
		return nil
	}
	return fmt.Errorf("%q is none of %s", v, strings.Join(slices.DeleteFunc(choices, func(s string) bool { return s == "" }), ", "))
}

func second[T any](_ T, err error) error { return err }

func logLevel(s string) error {
	if s == "" || new(slog.Level).UnmarshalText([]byte(s)) == nil {
		return nil
	}
	return oneOf(s, "debug", "info", "warn", "error")
}

func (c *config) relayHasBroker() error {
	if c.only == "relay" && c.broker == "" {
		return errors.New("a relay needs a broker: give --broker")
	}
	return nil
}

func tryBroker(address string, owns func(scheme string) bool) error {
	scheme, _, _ := strings.Cut(address, ":")
	if address == "" || owns(scheme) {
		return nil
	}
	_, _, err := readBroker(address)
	return err
}

func tryDSN(dsn string, parse func(string) error) error {
	if dsn == "" {
		return nil
	}
	return dsnError(parse(dsn))
}

// problems are all mistakes in what a program was told.
type problems []error

func (p *problems) add(errs ...error) {
	for _, err := range errs {
		if err != nil {
			*p = append(*p, err)
		}
	}
}

// err is a *usageError that names them all; nil: there are none.
func (p problems) err() error {
	switch len(p) {
	case 0:
		return nil
	case 1:
		return &usageError{p[0]}
	}
	return &usageError{p}
}

func (p problems) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d settings are wrong:", len(p))
	for _, err := range p {
		fmt.Fprintf(&b, "\n  %v", err)
	}
	return b.String()
}

// Unwrap is for errors.Is and As.
func (p problems) Unwrap() []error { return p }
