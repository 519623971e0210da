package cli

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"

	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/outbox/amqppub"
	"github.com/pgsagaz/pgsagaz/outbox/kafkapub"
	"github.com/pgsagaz/pgsagaz/outbox/memorypub"
	"github.com/pgsagaz/pgsagaz/outbox/redispub"
)

// openPublisher makes the publisher of a URL. It connects when it first publishes.
//
//	memory                                      events are acknowledged and forgotten at once: for trials
//	kafka://[user:password@]host:port[,host:port...]     kafka+ssl:// with TLS
//	amqp://user:password@host:port/vhost                 amqps:// with TLS
//	redis://[user:password@]host:port[,host:port...]/db  rediss:// with TLS; several hosts are a cluster
//
// What can be said after a question mark:
//
//	all     source=URI  structured=true  timeout=10s  ca=FILE  cert=FILE  key=FILE
//	kafka   create=true  partitions=N  replicas=N  compression=gzip|snappy|lz4|zstd  sasl=plain|scram-sha-256|scram-sha-512
//	amqp    topology=declare|check  kind=topic|fanout|direct|headers  unroutable=reject|drop  and what RabbitMQ knows (heartbeat, ...)
//	redis   prefix=TEXT  maxlen=N  replicas=N  master=NAME (then the hosts are Sentinels)
func openPublisher(address string, log *slog.Logger) (outbox.Publisher, error) {
	if address == "memory" || address == "memory:" || address == "memory://" {
		log.Warn("broker: memory: events are acknowledged and forgotten, and reach nobody")
		return memorypub.New(memorypub.Config{Discard: true}), nil
	}
	u, err := parseBroker(address)
	if err != nil {
		return nil, err
	}
	o := &brokerOptions{values: u.Query()}
	var open func() (outbox.Publisher, error)
	switch u.Scheme {
	case "kafka", "kafka+ssl":
		cfg := kafkaConfig(u, o)
		open = func() (outbox.Publisher, error) { return kafkapub.New(cfg) }
	case "amqp", "amqps":
		cfg := amqpConfig(u, o)
		open = func() (outbox.Publisher, error) { return amqppub.New(cfg) }
	case "redis", "rediss":
		cfg := redisConfig(u, o)
		open = func() (outbox.Publisher, error) { return redispub.New(cfg) }
	default:
		return nil, fmt.Errorf("broker %s: %q is none of kafka, kafka+ssl, amqp, amqps, redis, rediss, memory", u.Redacted(), u.Scheme)
	}
	if err := o.end(); err != nil {
		return nil, fmt.Errorf("broker %s: %w", u.Redacted(), err)
	}
	publisher, err := open()
	if err != nil {
		return nil, fmt.Errorf("broker %s: %w", u.Redacted(), err)
	}
	log.Info("broker", "url", u.Redacted())
	return publisher, nil
}

// parseBroker never says the password in an error.
func parseBroker(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	switch {
	case err != nil:
		var why *url.Error
		if errors.As(err, &why) {
			err = why.Err // without the address
		}
		return nil, fmt.Errorf("the broker's URL is malformed: %w", err)
	case u.Scheme == "" || u.Host == "":
		return nil, errors.New("the broker's URL is not memory and not of the form kafka://host:port, amqp://host:port or redis://host:port")
	}
	return u, nil
}

func kafkaConfig(u *url.URL, o *brokerOptions) kafkapub.Config {
	cfg := kafkapub.Config{Brokers: strings.Split(u.Host, ","), Format: o.format(), Timeout: o.duration("timeout"), TLS: o.tls(u.Scheme == "kafka+ssl"),
		Partitions: o.number("partitions"), ReplicationFactor: o.number("replicas")}
	if o.boolean("create") {
		cfg.UnknownTopic = kafkapub.Create
	}
	if name := o.text("compression"); name != "" {
		if err := cfg.Compression.UnmarshalText([]byte(name)); err != nil || cfg.Compression == kafka.Compression(0) {
			o.refuse("compression", name, "none of gzip, snappy, lz4, zstd")
		}
	}
	cfg.SASL = o.sasl(u.User)
	return cfg
}

func amqpConfig(u *url.URL, o *brokerOptions) amqppub.Config {
	cfg := amqppub.Config{Format: o.format(), Timeout: o.duration("timeout"), Kind: o.text("kind"), TLS: o.tls(u.Scheme == "amqps")}
	if o.choice("topology", "declare", "check") == "check" {
		cfg.Topology = amqppub.Check
	}
	if o.choice("unroutable", "reject", "drop") == "drop" {
		cfg.Unroutable = amqppub.Drop
	}
	rest := *u
	query := url.Values{}
	for _, name := range []string{"heartbeat", "connection_timeout", "channel_max", "auth_mechanism"} { // the client reads them
		if v := o.text(name); v != "" {
			query.Set(name, v)
		}
	}
	rest.RawQuery = query.Encode()
	cfg.URL = rest.String()
	return cfg
}

func redisConfig(u *url.URL, o *brokerOptions) redispub.Config {
	password, _ := u.User.Password()
	cfg := redispub.Config{
		Options: redis.UniversalOptions{Addrs: strings.Split(u.Host, ","), Username: u.User.Username(), Password: password,
			MasterName: o.text("master"), TLSConfig: o.tls(u.Scheme == "rediss")},
		Format: o.format(), Timeout: o.duration("timeout"), Prefix: o.text("prefix"), MaxLen: int64(o.number("maxlen")), Replicas: o.number("replicas"),
	}
	if db := strings.Trim(u.Path, "/"); db != "" {
		n, err := strconv.Atoi(db)
		if err != nil || n < 0 {
			o.refuse("the path", u.Path, "not the number of a database")
		}
		cfg.Options.DB = n
	}
	return cfg
}

func (o *brokerOptions) format() outbox.Format {
	return outbox.Format{Source: o.text("source"), Structured: o.boolean("structured")}
}

// sasl is how Kafka is told user and password; nil: there are none.
func (o *brokerOptions) sasl(user *url.Userinfo) sasl.Mechanism {
	name := o.choice("sasl", "plain", "scram-sha-256", "scram-sha-512")
	if user == nil {
		if o.values.Has("sasl") {
			o.refuse("sasl", name, "given without a user and a password")
		}
		return nil
	}
	password, _ := user.Password()
	algorithm := scram.SHA512
	switch name {
	case "plain":
		return plain.Mechanism{Username: user.Username(), Password: password}
	case "scram-sha-256":
		algorithm = scram.SHA256
	}
	mechanism, err := scram.Mechanism(algorithm, user.Username(), password)
	if err != nil {
		o.refuse("sasl", name, "not possible with this user and password: "+err.Error())
	}
	return mechanism
}

// tls is nil where it is not asked for.
func (o *brokerOptions) tls(wanted bool) *tls.Config {
	ca, cert, key := o.text("ca"), o.text("cert"), o.text("key")
	if !wanted {
		if ca+cert+key != "" {
			o.refuse("ca, cert or key", ca+cert+key, "given with a URL that asks for no TLS")
		}
		return nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		config.RootCAs = x509.NewCertPool()
		if err != nil || !config.RootCAs.AppendCertsFromPEM(pem) {
			o.refuse("ca", ca, "not a file of certificates in PEM")
		}
	}
	if cert != "" || key != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			o.refuse("cert and key", cert+" and "+key, "not a pair of a certificate and its key: "+err.Error())
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config
}

// brokerOptions are the options of a URL. The first mistake is kept.
type brokerOptions struct {
	values url.Values
	read   []string
	err    error
}

func (o *brokerOptions) refuse(name, value, why string) {
	if o.err == nil {
		o.err = fmt.Errorf("%s: %q is %s", name, value, why)
	}
}

func (o *brokerOptions) text(name string) string {
	o.read = append(o.read, name)
	return o.values.Get(name)
}

// choice is one of some; the first is the default.
func (o *brokerOptions) choice(name string, choices ...string) string {
	value := o.text(name)
	if value == "" {
		return choices[0]
	}
	if !slices.Contains(choices, value) {
		o.refuse(name, value, "none of "+strings.Join(choices, ", "))
	}
	return value
}

func (o *brokerOptions) boolean(name string) bool {
	return o.choice(name, "false", "true") == "true"
}

func (o *brokerOptions) number(name string) int {
	value := o.text(name)
	if value == "" {
		return 0
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 {
		o.refuse(name, value, "not a number above 0")
	}
	return n
}

func (o *brokerOptions) duration(name string) time.Duration {
	value := o.text(name)
	if value == "" {
		return 0
	}
	d, err := time.ParseDuration(value)
	if err != nil || d <= 0 {
		o.refuse(name, value, "not a time like 10s")
	}
	return d
}

// end is the first mistake. An option that nobody has read is one.
func (o *brokerOptions) end() error {
	for _, name := range slices.Sorted(maps.Keys(o.values)) {
		if !slices.Contains(o.read, name) && o.err == nil {
			slices.Sort(o.read)
			o.err = fmt.Errorf("no option %q; there are %s", name, strings.Join(o.read, ", "))
		}
	}
	return o.err
}
