// Package brokertest finds real brokers for tests, and gets between them and what is tested.
//
//	eval "$(.ci/brokers.sh up DIR)"             starts them and sets the variables
//	docker compose up -d kafka rabbitmq redis   starts them on the ports that are looked at without variables
//
// A test whose broker is missing is skipped; with PGSAGAZ_TEST_BROKERS=required it fails.
package brokertest

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/url"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/google/uuid"
)

// Kafka is the host:port of a Kafka broker.
func Kafka(t testing.TB) string {
	t.Helper()
	return find(t, "PGSAGAZ_TEST_KAFKA", "kafka://127.0.0.1:9092").Host
}

// AMQP is the URL of a RabbitMQ broker.
func AMQP(t testing.TB) string {
	t.Helper()
	return find(t, "PGSAGAZ_TEST_AMQP", "amqp://guest:guest@127.0.0.1:5672/").String()
}

// Redis is the URL of a Redis server.
func Redis(t testing.TB) string {
	t.Helper()
	return find(t, "PGSAGAZ_TEST_REDIS", "redis://127.0.0.1:6379/0").String()
}

// Secure is the URL of the named broker (KAFKA, AMQP, REDIS) that speaks TLS and asks for a password, and what its
// certificate is checked with.
func Secure(t testing.TB, name string) (*url.URL, *tls.Config) {
	t.Helper()
	u := find(t, "PGSAGAZ_TEST_"+name+"_TLS", "")
	pem, err := os.ReadFile(os.Getenv("PGSAGAZ_TEST_BROKERS_CA"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		t.Fatal("no certificate in PGSAGAZ_TEST_BROKERS_CA")
	}
	return u, &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
}

// find is the broker that the variable names, or the one on the usual port, if it listens.
func find(t testing.TB, variable, usual string) *url.URL {
	t.Helper()
	address := os.Getenv(variable)
	if address == "" {
		address = usual
	}
	if address == "" {
		missing(t, variable+" is not set")
	}
	u, err := url.Parse(address)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	c, err := net.DialTimeout("tcp", u.Host, 5*time.Second)
	if err != nil {
		missing(t, err.Error())
	}
	_ = c.Close()
	return u
}

func missing(t testing.TB, why string) {
	t.Helper()
	Missing(t, "no broker: "+why+`; eval "$(.ci/brokers.sh up DIR)" or docker compose up -d kafka rabbitmq redis starts all brokers`)
}

// Missing skips a test for what this machine lacks, or fails it where nothing may be lacking.
func Missing(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("PGSAGAZ_TEST_BROKERS") == "required" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// Control does to the named broker (kafka, amqp, redis) what .ci/brokers.sh can: stop, start, restart, pause, resume.
// Only brokers that it started can be had so, and only when PGSAGAZ_TEST_BROKERS_CONTROL=1 says that no other test needs them
// meanwhile.
func Control(t testing.TB, name string) func(command string) {
	t.Helper()
	script, dir := os.Getenv("PGSAGAZ_TEST_BROKERS_SCRIPT"), os.Getenv("PGSAGAZ_TEST_BROKERS_DIR")
	if os.Getenv("PGSAGAZ_TEST_BROKERS_CONTROL") != "1" || script == "" {
		t.Skip(`stops the broker: eval "$(.ci/brokers.sh up DIR)" and PGSAGAZ_TEST_BROKERS_CONTROL=1 go test -p 1 -run Control ... runs it`)
	}
	return func(command string) {
		t.Helper()
		if out, err := exec.Command(script, command, dir, name).CombinedOutput(); err != nil {
			t.Fatalf("%s %s %s: %v\n%s", script, command, name, err, out)
		}
	}
}

// Name is one that no other test has used.
func Name(prefix string) string { return prefix + "-" + uuid.NewString()[:13] }
