package cli

import (
	"bytes"
	"errors"
	"log/slog"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl/plain"

	"github.com/pgsagaz/pgsagaz/internal/brokertest"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/outbox/amqppub"
	"github.com/pgsagaz/pgsagaz/outbox/kafkapub"
	"github.com/pgsagaz/pgsagaz/outbox/redispub"
)

func TestBrokerConfigs(t *testing.T) {
	parse := func(address string) (*url.URL, *brokerOptions) {
		u, err := parseBroker(address)
		if err != nil {
			t.Fatal(err)
		}
		return u, &brokerOptions{values: u.Query()}
	}
	u, o := parse("kafka://u:p%40@a:1,b:2?create=true&partitions=3&replicas=2&compression=zstd&source=/shop&structured=true&timeout=2s")
	got := kafkaConfig(u, o)
	want := kafkapub.Config{Brokers: []string{"a:1", "b:2"}, UnknownTopic: kafkapub.Create, Partitions: 3, ReplicationFactor: 2, Compression: kafka.Zstd,
		Format: outbox.Format{Source: "/shop", Structured: true}, Timeout: 2 * time.Second, SASL: plain.Mechanism{Username: "u", Password: "p@"}}
	if !reflect.DeepEqual(got, want) || o.end() != nil {
		t.Errorf("kafka: %v\ngot  %+v\nwant %+v", o.end(), got, want)
	}
	u, o = parse("kafka+ssl://u:p@a:1?sasl=scram-sha-256")
	if got := kafkaConfig(u, o); got.SASL == nil || got.SASL.Name() != "SCRAM-SHA-256" || got.TLS == nil || o.end() != nil {
		t.Errorf("kafka+ssl: %v %+v", o.end(), got)
	}
	u, o = parse("amqp://u:p@a:1/shop?topology=check&kind=direct&unroutable=drop&heartbeat=5")
	if got, want := amqpConfig(u, o), (amqppub.Config{URL: "amqp://u:p@a:1/shop?heartbeat=5", Topology: amqppub.Check, Kind: "direct", Unroutable: amqppub.Drop}); !reflect.DeepEqual(got, want) || o.end() != nil {
		t.Errorf("amqp: %v\ngot  %+v\nwant %+v", o.end(), got, want)
	}
	u, o = parse("redis://u:p@a:1,b:2/3?prefix=x:&maxlen=10&replicas=1&master=m")
	if got, want := redisConfig(u, o), (redispub.Config{Options: redis.UniversalOptions{Addrs: []string{"a:1", "b:2"}, Username: "u", Password: "p", DB: 3, MasterName: "m"},
		Prefix: "x:", MaxLen: 10, Replicas: 1}); !reflect.DeepEqual(got, want) || o.end() != nil {
		t.Errorf("redis: %v\ngot  %+v\nwant %+v", o.end(), got, want)
	}
}

func TestBrokerMistakes(t *testing.T) {
	for address, says := range map[string]string{
		"":                                     "not of the form",
		"localhost:9092":                       "not of the form",
		"nats://u:secret@a:1":                  `"nats" is none of`,
		"kafka://u:secret@a:1%zz":              "malformed",
		"kafka://u:secret@localhost":           "host:port",
		"kafka://a:1?partition=3":              `no option "partition"`,
		"kafka://a:1?partitions=0":             `partitions: "0"`,
		"kafka://a:1?compression=rar":          `compression: "rar"`,
		"kafka://u:secret@a:1?sasl=gssapi":     `sasl: "gssapi"`,
		"kafka://a:1?sasl=plain":               "without a user",
		"kafka://a:1?timeout=soon":             `timeout: "soon"`,
		"kafka://a:1?create=yes":               `create: "yes"`,
		"kafka://a:1?ca=/x":                    "no TLS",
		"kafka+ssl://a:1?ca=/no/such/file":     "not a file of certificates",
		"rediss://a:1?cert=/no&key=/no":        "not a pair",
		"amqp://u:secret@a:1?topology=trust":   `topology: "trust"`,
		"redis://u:secret@a:1/first":           "not the number of a database",
		"redis://u:secret@a:1,b:1?replicas=1":  "cluster",
		"amqp://u:secret@a:1/?unroutable=keep": `unroutable: "keep"`,
	} {
		p, err := openPublisher(address, slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), says) || p != nil {
			t.Errorf("%s: %v, want an error that says %q", address, err, says)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error tells the password: %v", address, err)
		}
	}
}

// Each URL leads to the real broker.
func TestBrokersByURL(t *testing.T) {
	for name, address := range map[string]func(t *testing.T) string{
		"memory":               func(*testing.T) string { return "memory" },
		"memory as an address": func(*testing.T) string { return "memory:" },
		"kafka":                func(t *testing.T) string { return "kafka://" + brokertest.Kafka(t) + "?create=true&partitions=1" },
		"amqp":                 func(t *testing.T) string { return brokertest.AMQP(t) + "?unroutable=drop" },
		"redis":                func(t *testing.T) string { return brokertest.Redis(t) + "?maxlen=10" },
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			p, err := openPublisher(address(t), slog.New(slog.NewTextHandler(&log, nil)))
			if err != nil {
				t.Fatal(err)
			}
			e := outbox.Event{ID: uuid.Must(uuid.NewV7()), Topic: brokertest.Name("cli"), Key: "k", RoutingKey: "t", Type: "t", Payload: []byte("x"), CreatedAt: time.Now()}
			for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
				err := p.Publish(t.Context(), []outbox.Event{e})[0]
				if err == nil {
					break
				}
				if errors.As(err, new(*outbox.RejectedError)) || time.Now().After(deadline) {
					t.Fatal(err)
				}
			}
			if err := p.Close(); err != nil {
				t.Error(err)
			}
			if !strings.Contains(log.String(), "broker") || strings.Contains(log.String(), "guest:guest") {
				t.Errorf("log: %s", log.String())
			}
		})
	}
}

// TestWorkerPublishesToBrokers: what --broker names is where messages go.
func TestWorkerPublishesToBrokers(t *testing.T) {
	for name, address := range map[string]func(t *testing.T) string{
		"kafka": func(t *testing.T) string { return "kafka://" + brokertest.Kafka(t) + "?create=true&partitions=1" },
		"amqp":  func(t *testing.T) string { return brokertest.AMQP(t) + "?unroutable=drop" },
		"redis": func(t *testing.T) string { return brokertest.Redis(t) + "?maxlen=10&prefix=" + brokertest.Name("cli") },
	} {
		t.Run(name, func(t *testing.T) {
			broker := address(t)
			c := newCounter(t)
			c.env["PGSAGAZ_BROKER"] = broker
			stop := c.run(t.Context(), "worker", "--only", "relay", "--log-level", "error")
			c.publish("a", "1")
			c.publish("a", "2")
			var s outbox.Status
			c.eventually(func() bool { c.ok(&s, "outbox", "status"); return s.Pending == 0 })
			var list struct{ Dead []outbox.Dead }
			if c.ok(&list, "outbox", "dead", "list"); len(list.Dead) > 0 {
				t.Errorf("dead letters: %+v", list.Dead)
			}
			if code := stop(); code != exitOK {
				t.Errorf("the worker ended with %d", code)
			}
		})
	}
}
