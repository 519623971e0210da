package sagaui_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/inbox/memorysub"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/outbox/memorypub"
	"github.com/pgsagaz/pgsagaz/outbox/outboxtest"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/pgengine/sagaui"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// TestEncodedLetters: dead letters whose payloads are encrypted are shown decoded to whoever may see payloads, and to nobody else.
func TestEncodedLetters(t *testing.T) {
	t.Parallel()
	const secret = "Rumpelstiltskin"
	pool := sqltest.New(t)
	line, err := codec.NewKey("k1")
	if err != nil {
		t.Fatal(err)
	}
	ring, err := codec.ParseKeys(line)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := codec.New(codec.Config{Keyring: ring})
	if err != nil {
		t.Fatal(err)
	}
	sent, received := givenUp(t, pool, keys, fmt.Sprintf(`{"name": %q}`, secret))

	engineWith := func(c *codec.Codec) *pgengine.Engine {
		e, err := pgengine.New(pool, pgengine.Config{Codec: c, Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	lookOnly := func(_ *http.Request, action string, _ *pgengine.Status) error {
		if action == sagaui.View {
			return nil
		}
		return errors.New("ask the boss")
	}
	all := open(t, sagaui.NewHandler(engineWith(keys), &sagaui.Options{Authorize: sagaui.AllowAll, Logger: quiet}))
	some := open(t, sagaui.NewHandler(engineWith(keys), &sagaui.Options{Authorize: lookOnly, Logger: quiet}))
	keyless := open(t, sagaui.NewHandler(engineWith(nil), &sagaui.Options{Authorize: sagaui.AllowAll, Logger: quiet}))
	for _, path := range []string{fmt.Sprint("outbox/", sent), fmt.Sprint("inbox/", received)} {
		all.sees(path, secret)
		if page := some.sees(path, "Withheld"); strings.Contains(page, secret) {
			t.Errorf("%s shows a payload to somebody who may not see any", path)
		}
		if page := keyless.sees(path, "encoded"); strings.Contains(page, secret) {
			t.Errorf("%s shows what nobody has decoded", path)
		}
		if told := some.sees("api/v1/"+path, `"withheld": true`); strings.Contains(told, `"payload"`) {
			t.Errorf("%s tells a payload to somebody who may not see any:\n%s", path, told)
		}
	}

	// The lists do not tell payloads to anybody, only their sizes.
	var list sagaui.Inbox
	all.call("GET", "api/v1/inbox", "", 200, &list)
	if len(list.Letters) != 1 || list.Letters[0].Message.Payload != nil || list.Letters[0].Message.Headers != nil || list.Letters[0].Bytes < len(secret) {
		t.Errorf("%+v", list.Letters)
	}
	heads, err := inbox.DeadLetters(t.Context(), pool, inbox.DeadFilter{Heads: true})
	if err != nil || len(heads) != 1 || heads[0].Message.Payload != nil || heads[0].Size != list.Letters[0].Bytes {
		t.Errorf("%+v, %v", heads, err)
	}
}

// givenUp makes a dead letter in the outbox and one in the inbox, and gives their numbers.
func givenUp(t *testing.T, pool *pgxpool.Pool, c *codec.Codec, payload string) (sent, received int64) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	t.Cleanup(func() {
		stop()
		for range cap(ended) {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
	relay, err := outbox.NewRelay(pool, &outboxtest.Faulty{
		Publisher: memorypub.New(memorypub.Config{}), Poison: func(outbox.Event) error { return errors.New("not known here") },
	}, outbox.Config{Codec: c, Retry: outbox.Retry{MaxAttempts: 1}, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	broker := memorysub.New(memorysub.Config{})
	consumer, err := inbox.NewConsumer(pool, broker.Source("orders"), func(context.Context, pgx.Tx, inbox.Message) error {
		return inbox.Terminal(errors.New("no such order"))
	}, inbox.Config{Name: "orders", Codec: c, Subject: func(inbox.Message) string { return "ann" }, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	go func() { ended <- relay.Run(ctx) }()
	go func() { ended <- consumer.Run(ctx) }()

	err = sql.InTx(ctx, pool, func(tx pgx.Tx) error {
		return outbox.Publish(codec.With(ctx, c, "ann"), tx, outbox.Message{Topic: "orders", Payload: []byte(payload)})
	})
	if err != nil {
		t.Fatal(err)
	}
	broker.Publish(inbox.Message{ID: uuid.Must(uuid.NewV7()).String(), Topic: "orders", Payload: []byte(payload), Headers: map[string]string{"tenant": "a"}})
	for begin := time.Now(); sent == 0 || received == 0; time.Sleep(10 * time.Millisecond) {
		if time.Since(begin) > time.Minute {
			t.Fatal("no message has died")
		}
		out, err := outbox.DeadLetters(ctx, pool, outbox.DeadFilter{})
		if err != nil {
			t.Fatal(err)
		}
		in, err := inbox.DeadLetters(ctx, pool, inbox.DeadFilter{})
		if err != nil {
			t.Fatal(err)
		}
		if len(out) > 0 && len(in) > 0 {
			sent, received = out[0].ID, in[0].ID
		}
	}
	return sent, received
}
