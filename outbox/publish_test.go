package outbox_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

func TestPublish(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	saga := uuid.Must(uuid.NewV7())
	publish := func(ctx context.Context, messages ...outbox.Message) error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return outbox.Publish(ctx, tx, messages...) })
	}
	ctx := sql.WithStep(t.Context(), saga.String(), "ship")
	full := outbox.JSON("orders.shipped", "o-1", map[string]int{"parcel": 7})
	full.Headers["tenant"] = "a"
	if err := publish(ctx, full, outbox.Message{Topic: "bare"}); err != nil {
		t.Fatal(err)
	}
	var topic, key, routing, kind, payload, tenant, sagaID, step string
	err := pool.QueryRow(t.Context(), `SELECT topic, key, routing_key, type, convert_from(payload, 'UTF8'), headers ->> 'tenant', saga_id::text, step
		FROM pgsagaz.outbox WHERE topic = 'orders.shipped'`).Scan(&topic, &key, &routing, &kind, &payload, &tenant, &sagaID, &step)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Join([]string{topic, key, routing, kind, payload, tenant, sagaID, step}, " | ")
	if want := `orders.shipped | o-1 | orders.shipped | orders.shipped | {"parcel":7} | a | ` + saga.String() + " | ship"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}

	for name, bad := range map[string]struct {
		message outbox.Message
		want    error
		says    string
	}{
		"no topic":          {outbox.Message{Key: "k"}, outbox.ErrNoTopic, `key "k"`},
		"too large":         {outbox.Message{Topic: "t", Payload: make([]byte, outbox.MaxPayload+1)}, outbox.ErrTooLarge, `topic "t"`},
		"does not marshal":  {outbox.JSON("t", "k", math.NaN()), nil, "does not marshal"},
		"zero in the key":   {outbox.Message{Topic: "t", Key: "a\x00"}, outbox.ErrNotText, `key is "a\x00"`},
		"topic of bytes":    {outbox.Message{Topic: "t\xff"}, outbox.ErrNotText, `topic is "t\xff"`},
		"header of bytes":   {outbox.Message{Topic: "t", Headers: map[string]string{"a": "\xff"}}, outbox.ErrNotText, `header "a"`},
		"second is the bad": {outbox.Message{}, outbox.ErrNoTopic, "message 2 of 2"},
	} {
		messages := []outbox.Message{bad.message}
		if name == "second is the bad" {
			messages = []outbox.Message{{Topic: "never written"}, bad.message}
		}
		err := publish(t.Context(), messages...)
		if err == nil || bad.want != nil && !errors.Is(err, bad.want) || !strings.Contains(err.Error(), bad.says) {
			t.Errorf("%s: %v, want %v and %q", name, err, bad.want, bad.says)
		}
	}
	var n int
	if err := pool.QueryRow(t.Context(), `SELECT count(*) FROM pgsagaz.outbox`).Scan(&n); err != nil || n != 2 {
		t.Errorf("%d messages, %v; want the two that were published", n, err)
	}
}
