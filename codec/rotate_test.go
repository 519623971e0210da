package codec_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// TestRotation: everything that was written under the old key is read after it has left the keyring.
func TestRotation(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	k1, k2 := newKey(t, "k1"), newKey(t, "k2")
	old := newCodec(t, codec.Config{}, k1)
	const subjects = 450 // three pages
	stored := map[string][]byte{}
	if err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		for i := range subjects {
			s := fmt.Sprintf("customer-%d", i)
			stored[s] = encode(t, old, tx, keyOf(t, old, tx, s), "p", s)
		}
		stored[""] = encode(t, old, tx, codec.Key{}, "p", "")
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := erase(t.Context(), pool, "customer-7"); err != nil {
		t.Fatal(err)
	}
	delete(stored, "customer-7")

	both := newCodec(t, codec.Config{}, k2, k1)
	stored["new"] = encode(t, both, pool, keyOf(t, both, pool, "new"), "p", "new")
	stored["customer-1"] = encode(t, both, pool, keyOf(t, both, pool, "customer-1"), "p", "customer-1") // an old subject's
	only := newCodec(t, codec.Config{}, k2)
	if _, err := only.Rotate(t.Context(), pool, codec.By{}); !errors.Is(err, codec.ErrNoKey) {
		t.Fatalf("rotation without the old key: %v, want ErrNoKey", err)
	}
	if _, _, err := only.Decode(t.Context(), pool, "p", stored["customer-2"]); !errors.Is(err, codec.ErrNoKey) {
		t.Fatalf("a payload under the old key: %v, want ErrNoKey", err)
	}
	n, err := both.Rotate(t.Context(), pool, codec.By{})
	if err != nil || n != subjects {
		t.Fatalf("%d keys wrapped anew, %v; want %d", n, err, subjects)
	}
	if n, err = both.Rotate(t.Context(), pool, codec.By{}); err != nil || n != 0 {
		t.Fatalf("a second rotation wraps %d, %v", n, err)
	}
	only = newCodec(t, codec.Config{}, k2)
	read := 0
	for s, payload := range stored {
		if plain, _, err := only.Decode(t.Context(), pool, "p", payload); err != nil || string(plain) != s {
			t.Fatalf("after the rotation: %q, %v; want %q", plain, err, s)
		}
		read++
	}
	t.Logf("%d payloads are read under the new key alone", read)
	uses, err := only.Uses(t.Context(), pool)
	if err != nil || len(uses) != 2 || uses[0] != (codec.KeyUse{Name: "k2", DataKeys: subjects + 1, Current: true, Held: true}) || uses[1].Name != "" || uses[1].DataKeys != 1 {
		t.Errorf("%+v, %v", uses, err)
	}
	if uses, err = old.Uses(t.Context(), pool); err != nil || uses[0].Held {
		t.Errorf("without the key: %+v, %v", uses, err)
	}
}

// A rotation that has read a key does not bring it back when it is erased meanwhile.
func TestRotationDoesNotUndoAnErasure(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	k1, k2 := newKey(t, "k1"), newKey(t, "k2")
	first := newCodec(t, codec.Config{}, k1)
	stored := encode(t, first, pool, keyOf(t, first, pool, "customer-1"), "p", secret)
	ring, err := codec.ParseKeys(k2 + "," + k1)
	if err != nil {
		t.Fatal(err)
	}
	c, err := codec.New(codec.Config{Keyring: slowRing{ring, func() {
		if _, err := erase(t.Context(), pool, "customer-1"); err != nil {
			t.Error(err)
		}
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := c.Rotate(t.Context(), pool, codec.By{}); n != 0 || err != nil {
		t.Errorf("%d keys wrapped anew, %v; want none", n, err)
	}
	if _, _, err := c.Decode(t.Context(), pool, "p", stored); !errors.Is(err, codec.ErrErased) {
		t.Errorf("%v, want ErrErased", err)
	}
}

// slowRing is a keyring to which something happens while it wraps.
type slowRing struct {
	codec.Keyring
	meanwhile func()
}

func (r slowRing) Wrap(ctx context.Context, about, dataKey []byte) ([]byte, error) {
	r.meanwhile()
	return r.Keyring.Wrap(ctx, about, dataKey)
}

func TestErase(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	key := newKey(t, "k1")
	c := newCodec(t, codec.Config{KeepKeys: time.Hour}, key)
	mine, other := keyOf(t, c, pool, "customer-1"), keyOf(t, c, pool, "customer-2")
	stored, others := encode(t, c, pool, mine, "p", secret), encode(t, c, pool, other, "p", secret)
	if _, err := erase(t.Context(), pool, "nobody"); !errors.Is(err, codec.ErrNoSubject) {
		t.Errorf("an unknown subject: %v", err)
	}
	if _, err := erase(t.Context(), pool, ""); !errors.Is(err, codec.ErrNoSubject) {
		t.Errorf("the common key: %v", err)
	}
	e, err := erase(t.Context(), pool, "customer-1")
	if err != nil || e.Before || e.By != "dpo" || e.Reason != "asked by letter" || e.ErasedAt.IsZero() {
		t.Fatalf("%+v, %v", e, err)
	}
	again, err := erase(t.Context(), pool, "customer-1")
	if err != nil || !again.Before || !again.ErasedAt.Equal(e.ErasedAt) {
		t.Errorf("a second erasure: %+v, %v", again, err)
	}
	fresh := newCodec(t, codec.Config{}, key)
	if _, k, err := fresh.Decode(t.Context(), pool, "p", stored); !errors.Is(err, codec.ErrErased) || k != mine {
		t.Errorf("%v under %v, want ErrErased under %v", err, k, mine)
	}
	if _, err := fresh.KeyOf(t.Context(), pool, "customer-1"); !errors.Is(err, codec.ErrErased) {
		t.Errorf("a new payload of the subject: %v, want ErrErased", err)
	}
	if _, _, err := fresh.Decode(t.Context(), pool, "p", codec.Erased(mine)); !errors.Is(err, codec.ErrErased) {
		t.Errorf("a tombstone: %v, want ErrErased", err)
	}
	if plain, _, err := fresh.Decode(t.Context(), pool, "p", others); err != nil || string(plain) != secret {
		t.Errorf("another subject's payload: %q, %v", plain, err)
	}
	s, err := codec.Find(t.Context(), pool, "customer-1")
	if err != nil || s.Key != mine || s.ErasedBy != "dpo" || s.ErasedAt == nil || s.KeyName != "" {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := codec.Find(t.Context(), pool, "nobody"); !errors.Is(err, codec.ErrNoSubject) {
		t.Errorf("%v, want ErrNoSubject", err)
	}
}

// How long a process may read on is bounded, and so is its memory.
func TestKeysAreKeptForAWhile(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	key := newKey(t, "k1")
	keeps, forgets := newCodec(t, codec.Config{KeepKeys: time.Hour}, key), newCodec(t, codec.Config{KeepKeys: time.Nanosecond}, key)
	stored := encode(t, keeps, pool, keyOf(t, keeps, pool, "customer-1"), "p", secret)
	small := newCodec(t, codec.Config{KeepKeys: time.Hour, MaxKeys: 2}, key)
	for range 2 {
		for i := range 5 {
			s := fmt.Sprintf("customer-%d", i)
			if plain, _, err := small.Decode(t.Context(), pool, "p", encode(t, small, pool, keyOf(t, small, pool, s), "p", s)); err != nil || string(plain) != s {
				t.Fatalf("with room for two keys: %q, %v", plain, err)
			}
		}
	}
	for _, c := range []*codec.Codec{keeps, forgets} {
		if _, _, err := c.Decode(t.Context(), pool, "p", stored); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := erase(t.Context(), pool, "customer-1"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := keeps.Decode(t.Context(), pool, "p", stored); err != nil {
		t.Errorf("within KeepKeys: %v; it asks the database for each payload", err)
	}
	if _, _, err := forgets.Decode(t.Context(), pool, "p", stored); !errors.Is(err, codec.ErrErased) {
		t.Errorf("after KeepKeys: %v, want ErrErased", err)
	}
}
