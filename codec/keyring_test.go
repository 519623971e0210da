package codec_test

import (
	"context"
	"errors"
	"testing"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// failing is a key service that answers with err, if there is one.
type failing struct {
	codec.Keyring
	err error
}

func (f failing) Unwrap(ctx context.Context, name string, about, wrapped []byte) ([]byte, error) {
	if f.err != nil {
		return nil, f.err
	}
	return f.Keyring.Unwrap(ctx, name, about, wrapped)
}

// A key service that is away says nothing about the payload: it is read another day.
func TestAKeyServiceThatIsAway(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	ring, err := codec.ParseKeys(newKey(t, "k1"))
	if err != nil {
		t.Fatal(err)
	}
	open := func(r codec.Keyring) *codec.Codec {
		c, err := codec.New(codec.Config{Keyring: r})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	here := open(ring)
	stored := encode(t, here, pool, keyOf(t, here, pool, "customer-1"), "p", secret)
	for why, final := range map[error]bool{
		context.DeadlineExceeded: false, errors.New("503"): false, codec.ErrNoKey: false, codec.ErrCorrupt: true,
	} {
		_, _, err := open(failing{ring, why}).Decode(t.Context(), pool, "p", stored)
		if c, ok := errors.AsType[*codec.Error](err); !ok || c.Final() != final || !errors.Is(err, why) {
			t.Errorf("%v: %v, want final %v", why, err, final)
		}
	}
	if _, err := pool.Exec(t.Context(), `UPDATE pgsagaz.data_key SET wrapped = decode('00', 'hex') || substring(wrapped FROM 2) WHERE subject = 'customer-1'`); err != nil {
		t.Fatal(err)
	}
	_, _, err = open(ring).Decode(t.Context(), pool, "p", stored)
	if c, ok := errors.AsType[*codec.Error](err); !ok || !c.Final() {
		t.Errorf("a wrapped key that was damaged: %v, want what is final", err)
	}
}
