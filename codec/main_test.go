package codec_test

import (
	"context"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

func TestMain(m *testing.M) { os.Exit(sqltest.Main(m)) }

// newKey makes a key-encryption key.
func newKey(t *testing.T, name string) string {
	t.Helper()
	k, err := codec.NewKey(name)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newCodec(t *testing.T, cfg codec.Config, keys ...string) *codec.Codec {
	t.Helper()
	if len(keys) > 0 {
		text := ""
		for _, k := range keys {
			text += k + "\n"
		}
		ring, err := codec.ParseKeys(text)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Keyring = ring
	}
	c, err := codec.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func keyOf(t *testing.T, c *codec.Codec, db sql.Querier, subject string) codec.Key {
	t.Helper()
	k, err := c.KeyOf(t.Context(), db, subject)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func encode(t *testing.T, c *codec.Codec, db sql.Querier, k codec.Key, place, plain string) []byte {
	t.Helper()
	stored, err := c.Encode(t.Context(), db, k, place, []byte(plain))
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

func erase(ctx context.Context, pool *pgxpool.Pool, subject string) (e codec.Erasure, err error) {
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		e, err = codec.Erase(ctx, tx, subject, codec.EraseOptions{By: "dpo", Reason: "asked by letter"})
		return err
	})
	return e, err
}
