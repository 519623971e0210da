package localpg

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// cluster is a data directory and what is needed to run it. Postgres calls the data of one server a cluster.
type cluster struct {
	bin      string   // directory of initdb and postgres
	account  *account // who runs the server; nil: the calling user
	dir      *ownDir
	env      []string // of the server, beside this process's
	password string
	port     int // of the last start
}

func (c *cluster) data() string    { return filepath.Join(c.dir.path, "data") }
func (c *cluster) logFile() string { return filepath.Join(c.dir.path, "postgres.log") }
func (c *cluster) remove() error   { return c.dir.remove() }

func (c *cluster) url() string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword("postgres", c.password),
		Host: "127.0.0.1:" + strconv.Itoa(c.port), Path: "/postgres", RawQuery: "sslmode=disable",
	}
	return u.String()
}

// newCluster finds the binaries, makes the directory and runs initdb.
func newCluster(ctx context.Context, opts *Options) (*cluster, error) {
	c := &cluster{env: opts.Env, password: rand.Text()}
	var err error
	if c.account, err = serverAccount(); err != nil {
		return nil, err
	}
	if c.bin, err = findBinaries(ctx, opts); err != nil {
		return nil, err
	}
	if err := c.account.canEnter(c.bin); err != nil {
		return nil, err
	}
	if c.dir, err = newOwnDir(opts.Dir, c.account); err != nil {
		return nil, err
	}
	if err := c.init(ctx, opts); err != nil {
		return nil, errors.Join(err, c.remove())
	}
	return c, nil
}

// init runs initdb and writes the settings.
func (c *cluster) init(ctx context.Context, opts *Options) error {
	if err := c.account.canEnter(c.dir.path); err != nil {
		return err
	}
	if err := os.Mkdir(c.data(), 0o700); err != nil {
		return err
	}
	if err := c.account.give(c.data()); err != nil {
		return err
	}
	passwordFile := filepath.Join(c.dir.path, "password")
	if err := os.WriteFile(passwordFile, []byte(c.password), 0o600); err != nil {
		return err
	}
	if err := c.account.give(passwordFile); err != nil {
		return err
	}
	initdb := exec.CommandContext(ctx, filepath.Join(c.bin, executable("initdb")), "--pgdata="+c.data(),
		"--username=postgres", "--auth=scram-sha-256", "--pwfile="+passwordFile,
		"--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions")
	c.prepare(initdb)
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", initdb.Path, err, out)
	}
	if err := os.Remove(passwordFile); err != nil {
		return err
	}
	return c.configure(opts)
}

// prepare makes a command run as the server's account, in a directory that account may enter.
func (c *cluster) prepare(cmd *exec.Cmd) {
	cmd.Dir = c.dir.path
	cmd.Env = append(append(cmd.Environ(), "LC_ALL=C"), c.env...) // on macOS postgres does not start without a locale
	cmd.SysProcAttr = c.account.attributes()
}

// configure appends the settings to the file that initdb wrote. The last one of a name counts, hence the order.
func (c *cluster) configure(opts *Options) error {
	settings := map[string]string{
		"listen_addresses":        "127.0.0.1",
		"unix_socket_directories": "", // the path of a socket is limited to some 100 bytes, that of a temporary directory is not
		"max_connections":         "200",
		"timezone":                "UTC",
		"lc_messages":             "C", // startOnFreePort reads the log
	}
	if !opts.Durable {
		settings["fsync"] = "off"
		settings["full_page_writes"] = "off"
	}
	if hasLibrary(c.bin, "pg_stat_statements") {
		settings["shared_preload_libraries"] = "pg_stat_statements"
	}
	maps.Copy(settings, opts.Settings)
	return c.append(settings)
}

// append adds settings to the file.
func (c *cluster) append(settings map[string]string) error {
	var conf strings.Builder
	conf.WriteString("\n# Set by pgsagaz.\n")
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&conf, "%s = '%s'\n", name, strings.ReplaceAll(settings[name], "'", "''"))
	}
	file, err := os.OpenFile(filepath.Join(c.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(conf.String())
	return errors.Join(err, file.Close())
}
