package cli

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// masked stands where a secret is.
const masked = "xxxxx"

// hide is a secret of which nothing can be shown.
func hide(s string) string {
	if s == "" {
		return ""
	}
	return masked
}

// showDSN is a connection string without what is secret, and without what cannot be told from that.
func showDSN(dsn string) string {
	if dsn == "" {
		return ""
	}
	c, err := pgx.ParseConfig(dsn)
	if err != nil {
		return masked
	}
	u := url.URL{Scheme: "postgres", Host: fmt.Sprintf("%s:%d", c.Host, c.Port), Path: "/" + c.Database, User: url.User(c.User)}
	if strings.HasPrefix(c.Host, "/") { // a directory of sockets
		u.Host, u.RawQuery = "", url.Values{"host": {c.Host}, "port": {fmt.Sprint(c.Port)}}.Encode()
	}
	if c.Password != "" {
		u.User = url.UserPassword(c.User, masked)
	}
	return u.String()
}

// showURL is the address of a broker without its password, and without its options.
func showURL(address string) string {
	u, err := url.Parse(address)
	switch {
	case err != nil:
		return masked
	case u.Host == "":
		if address == "" || address == "memory" || address == "memory:" {
			return address
		}
		return masked
	}
	if u.RawQuery != "" {
		u.RawQuery = "..."
	}
	return u.Redacted()
}

// dsnError is what pgx says of a connection string, without the string: pgx masks what it takes for the password, but a string
// that is malformed may be read in more ways than one.
func dsnError(err error) error {
	var parse *pgconn.ParseConfigError
	if !errors.As(err, &parse) {
		return err
	}
	bare := *parse
	bare.ConnString = ""
	_, why, _ := strings.Cut(bare.Error(), ": ")
	if strings.HasPrefix(why, "failed to parse as") { // what follows may quote it
		return errors.New("not of the form postgres://user:password@host:port/name, in which what is special in a URL is written as %XX")
	}
	return errors.New(why)
}
