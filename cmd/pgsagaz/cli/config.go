package cli

import (
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// config is all that can be configured. What only makes sense for one call, such as the reason of a
// cancel, is a plain flag of its command.
type config struct {
	configFile             string
	databaseURL, directURL string
	waitForDatabase        time.Duration
	json                   bool
	actor                  string
	logLevel, logFormat    string
	codecKeys              string
	codecCompress          bool
	server, serverToken    string

	poolSize, maxWorkers                int
	queues                              []string
	workerID                            string
	jobPerStep, noListen, waitForSchema bool
	lease, grace, poll, sweep           time.Duration
	archiveAfter, keepArchive, keepKeys time.Duration

	only, broker     string
	relayLease       time.Duration
	keepMessages     time.Duration
	maxPending       int
	onRejected       string
	rejectedAttempts int
	noOptimistic     bool

	httpAddr, httpCert, httpKey string
	httpToken                   string
	pprof                       bool

	otlpEndpoint, otlpHeaders, otlpService string
	otlpSample                             float64

	benchSteps, benchRounds int
	benchRows               int
	benchConcurrency        []string
	benchDuration           time.Duration
	benchIdle               time.Duration
	benchAtLeast            float64
	benchProfile            string

	orders, demoWorkers int
	failRate            float64
	kill, keep          bool

	console, consoleToken string

	origins map[string]string // of the values in force, by flag; those that are missing are defaults
}

// setting is a row of the table. A flag beats a variable, a variable beats the file of --config, that beats the default.
type setting struct {
	field     any    // where it goes
	flag      string // --flag
	variables string // the first that is set counts; "": none, and none in the file either
	byDefault any
	help      string
}

// secret is a field that nobody may read over a shoulder: its variables have a sibling NAME_FILE, which names a file
// that holds the value, and it is shown as show tells it.
type secret struct {
	value *string
	show  func(string) string
}

// settings is the one table of what can be configured.
func (c *config) settings() []setting {
	return []setting{
		// All commands:
		{&c.configFile, "config", "PGSAGAZ_CONFIG", "", "a file of settings: lines like PGSAGAZ_POOL_SIZE=16, by the variables' names, and comments with #"},
		{secret{&c.databaseURL, showDSN}, "database-url", "PGSAGAZ_DATABASE_URL DATABASE_URL", "", "the database, as postgres://user:password@host:port/name"},
		{&c.json, "json", "PGSAGAZ_JSON", false, "print JSON"},
		{&c.logLevel, "log-level", "PGSAGAZ_LOG_LEVEL", "", "debug, info, warn or error (default: info for worker, warn otherwise)"},
		{&c.logFormat, "log-format", "PGSAGAZ_LOG_FORMAT", "text", "text or json"},
		{secret{&c.codecKeys, showKeys}, "codec-keys", "PGSAGAZ_CODEC_KEYS", "", "the keys that encrypt payloads, each as name:base64, by commas or lines, the current one first; better by a file than as a flag that others can see (default: payloads are not encrypted)"},
		{&c.codecCompress, "codec-compress", "PGSAGAZ_CODEC_COMPRESS", false, "compress payloads"},

		{&c.server, "server", "PGSAGAZ_SERVER", "", "a console to ask where the database is out of reach, as https://host:port/prefix; of a flag and a variable the flag counts, else this before --database-url"},
		{secret{&c.serverToken, hide}, "server-token", "PGSAGAZ_SERVER_TOKEN", "", "what that console asks for"},

		// Commands that ask something of a saga:
		{&c.actor, "actor", "PGSAGAZ_ACTOR LOGNAME USER", "", "who asks, for the audit (default: the user of the database's session)"},

		// worker, and saga start:
		{&c.otlpEndpoint, "otlp-endpoint", "PGSAGAZ_OTLP_ENDPOINT", "", "where traces go, by OTLP over HTTP, as http://host:4318; without a path it is /v1/traces (default: nowhere, and no spans are made)"},
		{secret{&c.otlpHeaders, showHeaders}, "otlp-headers", "PGSAGAZ_OTLP_HEADERS", "", "what the collector asks for, as name=value by commas or lines, with %XX for what is special: Authorization=Bearer%20..."},
		{&c.otlpService, "otlp-service", "PGSAGAZ_OTLP_SERVICE OTEL_SERVICE_NAME", "pgsagaz", "what this program is called in traces"},
		{&c.otlpSample, "otlp-sample", "PGSAGAZ_OTLP_SAMPLE", 1.0, "the part of the traces that begin here which is exported, from 0 to 1; for those that began elsewhere it was decided there"},

		// Commands that migrate or work:
		{secret{&c.directURL, showDSN}, "direct-url", "PGSAGAZ_DIRECT_URL", "", "the database without the pooler, if --database-url goes through one (default: as --database-url)"},

		// migrate up:
		{&c.waitForDatabase, "wait-for-database", "PGSAGAZ_WAIT_FOR_DATABASE", time.Duration(0), "how long to wait for a database that does not answer yet; 0: not at all"},

		// worker:
		{&c.poolSize, "pool-size", "PGSAGAZ_POOL_SIZE", 16, "connections for steps; two to four times the server's cores"},
		{&c.maxWorkers, "max-workers", "PGSAGAZ_MAX_WORKERS", 100, "how many lanes of a queue are driven at once"},
		{&c.queues, "queues", "PGSAGAZ_QUEUES", []string{}, "queues to work, each with its own max-workers if given: default,slow=5 (default: all that the sagas use)"},
		{&c.workerID, "worker-id", "PGSAGAZ_WORKER_ID", "", "unique name of this worker (default: made from the host's name)"},
		{&c.jobPerStep, "job-per-step", "PGSAGAZ_JOB_PER_STEP", false, "make every step a River job of its own"},
		{&c.noListen, "no-listen", "PGSAGAZ_NO_LISTEN", false, "do without LISTEN, and poll"},
		{&c.waitForSchema, "wait-for-schema", "PGSAGAZ_WAIT_FOR_SCHEMA", false, "wait for a schema that is missing or too old, instead of ending; for where migrations and workers start together"},
		{&c.lease, "lease", "PGSAGAZ_LEASE", 5 * time.Second, "how long a worker may be silent before others take over"},
		{&c.grace, "grace", "PGSAGAZ_GRACE", 20 * time.Second, "how long steps may go on when the worker is told to stop"},
		{&c.poll, "poll", "PGSAGAZ_POLL", time.Duration(0), "how often to look for work that nobody told of; 0: every 100ms, and for messages every 500ms in quiet times"},
		{&c.sweep, "sweep", "PGSAGAZ_SWEEP", 500 * time.Millisecond, "how often to look for what dead workers held and for what is due"},
		{&c.archiveAfter, "archive-after", "PGSAGAZ_ARCHIVE_AFTER", 24 * time.Hour, "when a saga that has ended moves into the archive; below 0: never"},
		{&c.keepArchive, "keep-archive", "PGSAGAZ_KEEP_ARCHIVE", time.Duration(0), "how long it stays there; 0: for ever"},
		{&c.keepKeys, "keep-keys", "PGSAGAZ_KEEP_KEYS", 90 * 24 * time.Hour, "how long start keys of sagas that have ended are remembered; below 0: for ever"},
		{&c.only, "only", "PGSAGAZ_ONLY", "", "sagas or relay: run only the one (default: sagas, and the relay if there is a broker)"},
		{secret{&c.broker, showURL}, "broker", "PGSAGAZ_BROKER", "", "where messages go: kafka://host:port, amqp://user:password@host:port/, redis://host:port, memory (default: nowhere, they wait)"},
		{&c.relayLease, "relay-lease", "PGSAGAZ_RELAY_LEASE", 3 * time.Second, "how long a relay may be silent before others publish for it"},
		{&c.noOptimistic, "no-optimistic", "PGSAGAZ_NO_OPTIMISTIC", false, "publish by poll only, not right after a commit"},
		{&c.rejectedAttempts, "rejected-attempts", "PGSAGAZ_REJECTED_ATTEMPTS", 5, "how often a message is tried that the broker rejects"},
		{&c.onRejected, "on-rejected", "PGSAGAZ_ON_REJECTED", "give up", "what follows: 'give up' (its key goes on) or 'hold' (its key waits for an operator); either way it is a dead letter"},
		{&c.keepMessages, "keep-messages", "PGSAGAZ_KEEP_MESSAGES", time.Duration(0), "how long published messages are kept for outbox replay; 0: not at all"},
		{&c.maxPending, "max-pending", "PGSAGAZ_MAX_PENDING", 0, "pending messages above which publishing fails; 0: no limit"},
		{&c.httpAddr, "http-addr", "PGSAGAZ_HTTP_ADDR", defaultHTTP, "where to serve /metrics, /livez and /readyz, as host:port; off: nowhere"},
		{&c.httpCert, "http-cert", "PGSAGAZ_HTTP_CERT", "", "file of the TLS certificate and its chain, read again when it changes (default: no TLS)"},
		{&c.httpKey, "http-key", "PGSAGAZ_HTTP_KEY", "", "file of the certificate's key"},
		{secret{&c.httpToken, hide}, "http-token", "PGSAGAZ_HTTP_TOKEN", "", "what /metrics and /debug/pprof ask for as 'Authorization: Bearer ...' (default: nothing)"},
		{&c.pprof, "pprof", "PGSAGAZ_PPROF", false, "serve Go's profiles under /debug/pprof"},

		{&c.console, "console", "PGSAGAZ_CONSOLE", "", "where to serve the console: host:port, or :port for this machine alone (default: nowhere)"},
		{secret{&c.consoleToken, hide}, "console-token", "PGSAGAZ_CONSOLE_TOKEN", "", "what the console asks for, as a bearer token or as the password of basic auth (default: nothing, on this machine alone)"},

		// bench:
		{&c.benchSteps, "steps", "", 5, "steps of a saga"},
		{&c.benchConcurrency, "concurrency", "", []string{"1", "64"}, "how many sagas are in flight; one result each"},
		{&c.benchDuration, "duration", "", 3 * time.Second, "how long one round of one side takes"},
		{&c.benchIdle, "idle", "", 10 * time.Second, "how long a relay that has nothing to do is watched"},
		{&c.benchAtLeast, "at-least", "", 0.0, "fail if a throughput is less than this part of its floor's; 0: never"},
		{&c.benchProfile, "profile", "", "", "directory for CPU profiles of the engine's rounds and the SQL they took longest over (default: none are made)"},
		{&c.benchRounds, "rounds", "", 3, "rounds of each side"},
		{&c.benchRows, "rows", "", 1_000_000, "entries of the big inbox; ended sagas to archive"},

		// demo:
		{&c.orders, "orders", "", 100, "how many orders to place"},
		{&c.failRate, "fail-rate", "", 0.1, "how many of them cannot succeed, from 0 to 1"},
		{&c.demoWorkers, "workers", "", 1, "how many workers; with --kill at least 2"},
		{&c.kill, "kill", "", false, "run the workers as processes, and kill -9 some while they work"},
		{&c.keep, "keep", "", false, "go on afterwards, with an order a second, until interrupted"},
	}
}

// bind makes flags of the settings with these names.
func (c *config) bind(flags *pflag.FlagSet, names ...string) {
	rows := map[string]setting{}
	for _, s := range c.settings() {
		rows[s.flag] = s
	}
	for _, name := range names {
		s, ok := rows[name]
		if !ok {
			panic("cli: no setting named " + name)
		}
		help := s.help
		if s.variables != "" {
			help += " [" + strings.ReplaceAll(s.variables, " ", ", ") + "]"
		}
		switch field := s.field.(type) {
		case secret:
			flags.StringVar(field.value, name, s.byDefault.(string), help)
		case *string:
			flags.StringVar(field, name, s.byDefault.(string), help)
		case *bool:
			flags.BoolVar(field, name, s.byDefault.(bool), help)
		case *int:
			flags.IntVar(field, name, s.byDefault.(int), help)
		case *float64:
			flags.Float64Var(field, name, s.byDefault.(float64), help)
		case *time.Duration:
			flags.DurationVar(field, name, s.byDefault.(time.Duration), help)
		case *[]string:
			flags.StringSliceVar(field, name, s.byDefault.([]string), help)
		default:
			panic(fmt.Sprintf("cli: setting %s is a %T", name, field))
		}
	}
}

// complete gives variables and the lines of the file to those flags that were not given themselves, and checks all values that the
// command reads. The error names everything that is wrong.
//
// owns tells which schemes of brokers are the program's own.
func (c *config) complete(cmd *cobra.Command, getenv func(string) string, owns func(scheme string) bool) error {
	flags := cmd.Flags()
	given := places{{"", getenv}}
	var wrong problems
	if path, _, err := (places{{"", getenv}}).find("PGSAGAZ_CONFIG", false); err != nil {
		wrong.add(err)
	} else if flag := flags.Lookup("config"); flag != nil && !flag.Changed {
		c.configFile = path
	}
	if c.configFile != "" {
		file, errs := readConfigFile(c.configFile, c.settings())
		wrong.add(errs...)
		given = append(given, file)
	}
	c.origins = map[string]string{}
	unread := map[string]bool{}
	for _, s := range c.settings() {
		flag := flags.Lookup(s.flag)
		if flag == nil {
			continue
		}
		if flag.Changed {
			c.origins[s.flag] = "--" + s.flag
			continue
		}
		_, secret := s.field.(secret)
		value, from, err := given.find(s.variables, secret)
		if err != nil {
			wrong.add(fmt.Errorf("--%s: %w", s.flag, err))
			unread[s.flag] = true
			continue
		}
		if from == "" {
			continue
		}
		if err := flags.Set(s.flag, value); err != nil {
			wrong.add(fmt.Errorf("%s: %q is not a value for --%s: %w", from, value, s.flag, err))
			unread[s.flag] = true
			continue
		}
		c.origins[s.flag] = from
	}
	wrong.add(c.check(func(name string) bool { return flags.Lookup(name) != nil && !unread[name] }, owns)...)
	if c.databaseURL == "" && cmd.Name() == "worker" && !unread["database-url"] { // others find out when they need it
		wrong.add(errNoDatabase)
	}
	return wrong.err()
}

// logger writes to stderr, from that level on unless another was asked for.
func (a *app) logger(level slog.Level) *slog.Logger {
	if a.cfg.logLevel != "" {
		_ = level.UnmarshalText([]byte(a.cfg.logLevel)) // complete has tried it
	}
	options := &slog.HandlerOptions{Level: level}
	if a.cfg.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(a.Stderr, options))
	}
	return slog.New(slog.NewTextHandler(a.Stderr, options))
}
