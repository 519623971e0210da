package codec_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

const secret = "4111-1111-1111-1111"

func TestPayloadsComeBackAsTheyWere(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	key := newKey(t, "k1")
	for name, c := range map[string]*codec.Codec{
		"none":        nil,
		"nothing":     newCodec(t, codec.Config{}),
		"compressing": newCodec(t, codec.Config{Compress: true}),
		"encrypting":  newCodec(t, codec.Config{}, key),
		"both":        newCodec(t, codec.Config{Compress: true}, key),
	} {
		k := keyOf(t, c, pool, "customer-1")
		for _, plain := range []string{"", `{}`, `"x"`, `{"card":"` + secret + `"}`, `{"card":"` + strings.Repeat(secret, 1000) + `"}`} {
			stored := encode(t, c, pool, k, "result of order", plain)
			again, got, err := c.Decode(t.Context(), pool, "result of order", stored)
			if err != nil || string(again) != plain {
				t.Errorf("%s: %.40q came back as %.40q, %v", name, plain, again, err)
			}
			text, err := c.EncodeJSON(t.Context(), pool, k, "result of order", json.RawMessage(plain))
			if err != nil {
				t.Fatal(err)
			}
			again, gotJSON, err := c.DecodeJSON(t.Context(), pool, "result of order", text)
			if err != nil || string(again) != plain {
				t.Errorf("%s: JSON %.40q came back as %.40q, %v", name, plain, again, err)
			}
			if got != k || gotJSON != k || codec.KeyIn(text) != k {
				t.Errorf("%s: under the key %v, and %v, %v, %v was said", name, k, got, gotJSON, codec.KeyIn(text))
			}
			if plain != "" && !json.Valid(text) {
				t.Errorf("%s: %.60q is no JSON", name, text)
			}
			if encrypts := name == "encrypting" || name == "both"; encrypts && (bytes.Contains(stored, []byte(secret)) || bytes.Contains(text, []byte(secret))) {
				t.Errorf("%s: the payload can be read", name)
			}
			if compresses := name == "compressing" || name == "both"; compresses && len(plain) > 1000 && len(stored) > len(plain)/10 {
				t.Errorf("%s: %d bytes became %d", name, len(plain), len(stored))
			}
		}
	}
}

// What was written before the codec is read after it is switched on, and what a codec has written is never handed out
// as a plain payload.
func TestPlainAndEncodedAreToldApart(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	on := newCodec(t, codec.Config{}, newKey(t, "k1"))
	var off *codec.Codec
	k := keyOf(t, on, pool, "customer-1")
	plain, _, err := on.Decode(t.Context(), pool, "p", []byte(secret))
	if err != nil || string(plain) != secret {
		t.Errorf("a plain payload: %q, %v", plain, err)
	}
	stored := encode(t, on, pool, k, "p", secret)
	text, err := on.EncodeJSON(t.Context(), pool, k, "p", json.RawMessage(`"`+secret+`"`))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*codec.Codec{"none": off} {
		if _, _, err := c.Decode(t.Context(), pool, "p", stored); !errors.Is(err, codec.ErrNoCodec) {
			t.Errorf("%s: %v, want ErrNoCodec", name, err)
		}
		if _, _, err := c.DecodeJSON(t.Context(), pool, "p", text); !errors.Is(err, codec.ErrNoCodec) {
			t.Errorf("%s: %v, want ErrNoCodec", name, err)
		}
		// A plain payload that looks like an encoded one would not be read again.
		again, _, err := c.Decode(t.Context(), pool, "p", encode(t, c, pool, codec.Key{}, "p", string(stored)))
		if err != nil || !bytes.Equal(again, stored) {
			t.Errorf("%s: a payload that looks like an encoded one: %v", name, err)
		}
		if _, err := c.EncodeJSON(t.Context(), pool, k, "p", text); !errors.Is(err, codec.ErrReserved) {
			t.Errorf("%s: %v, want ErrReserved", name, err)
		}
	}
	for name, c := range map[string]*codec.Codec{"nothing": newCodec(t, codec.Config{}), "encrypting": on} { // it is wrapped
		again, _, err := c.Decode(t.Context(), pool, "p", encode(t, c, pool, codec.Key{}, "p", string(stored)))
		if err != nil || !bytes.Equal(again, stored) {
			t.Errorf("%s: a payload that looks like an encoded one: %v", name, err)
		}
		twice, err := c.EncodeJSON(t.Context(), pool, codec.Key{}, "p", text)
		if err != nil {
			t.Fatal(err)
		}
		if again, _, err := c.DecodeJSON(t.Context(), pool, "p", twice); err != nil || string(again) != string(text) {
			t.Errorf("%s: JSON that looks like an encoded one: %v", name, err)
		}
	}
	if _, _, err := newCodec(t, codec.Config{}).Decode(t.Context(), pool, "p", stored); !errors.Is(err, codec.ErrNoKey) {
		t.Errorf("a codec without a keyring: %v, want ErrNoKey", err)
	}
}

// Every byte is authenticated, and so is the place.
func TestWhatWasChangedOrMovedDoesNotDecode(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	c := newCodec(t, codec.Config{Compress: true}, newKey(t, "k1"))
	k := keyOf(t, c, pool, "customer-1")
	stored := encode(t, c, pool, k, "result of order", strings.Repeat(secret, 50))
	if _, _, err := c.Decode(t.Context(), pool, "input of order", stored); !errors.Is(err, codec.ErrCorrupt) {
		t.Errorf("in another place: %v, want ErrCorrupt", err)
	}
	for i := 5; i < len(stored); i++ { // before that it is a plain payload
		changed := bytes.Clone(stored)
		changed[i] ^= 1 << (i % 8)
		if _, _, err := c.Decode(t.Context(), pool, "result of order", changed); !errors.As(err, new(*codec.Error)) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
	}
	for n := 5; n < len(stored); n++ {
		if _, _, err := c.Decode(t.Context(), pool, "result of order", stored[:n]); !errors.As(err, new(*codec.Error)) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
	for _, text := range []string{`{"pgsagaz":1,`, `{"pgsagaz":1,"data":"x"}`, `{"pgsagaz":1,"data":"AAAA"}`, `{"pgsagaz":1,"key":7}`} {
		if _, _, err := c.DecodeJSON(t.Context(), pool, "p", json.RawMessage(text)); !errors.Is(err, codec.ErrCorrupt) {
			t.Errorf("%s: %v, want ErrCorrupt", text, err)
		}
		if codec.KeyIn(json.RawMessage(text)) != (codec.Key{}) {
			t.Errorf("%s has a key", text)
		}
	}
}

// Two inputs of one subject can be compared without their plain text, whatever their white space, and not those of two.
func TestFingerprintsTellInputsApart(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	c := newCodec(t, codec.Config{}, newKey(t, "k1"))
	print := func(subject, plain string) string {
		text, err := c.EncodeInput(t.Context(), pool, keyOf(t, c, pool, subject), "input of order", json.RawMessage(plain))
		if err != nil {
			t.Fatal(err)
		}
		var e struct{ Same string }
		if err := json.Unmarshal(text, &e); err != nil || e.Same == "" {
			t.Fatalf("%s: %v", text, err)
		}
		return e.Same
	}
	if print("a", `{"x": 1, "y": [2]}`) != print("a", `{"y":[2],"x":1}`) {
		t.Error("the same input has two fingerprints")
	}
	if print("a", `{"x":1}`) == print("a", `{"x":2}`) || print("a", `{"x":1}`) == print("b", `{"x":1}`) {
		t.Error("two inputs have one fingerprint")
	}
}

// A data key that was made in a transaction counts only if that commits: whatever is written under it elsewhere could
// not be read again.
func TestKeyOfARolledBackTransactionIsForgotten(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	key := newKey(t, "k1")
	c := newCodec(t, codec.Config{}, key)
	for _, subject := range []string{"customer-1", ""} {
		gone := errors.New("rolled back")
		var lost codec.Key
		err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			lost = keyOf(t, c, tx, subject)
			stored := encode(t, c, tx, lost, "p", secret)
			if plain, _, err := c.Decode(t.Context(), tx, "p", stored); err != nil || string(plain) != secret {
				t.Errorf("in its own transaction: %q, %v", plain, err)
			}
			return gone
		})
		if !errors.Is(err, gone) {
			t.Fatal(err)
		}
		k := keyOf(t, c, pool, subject)
		if subject != "" && k == lost {
			t.Error("the key of a transaction that rolled back is used on")
		}
		stored := encode(t, c, pool, k, "p", secret)
		if plain, _, err := newCodec(t, codec.Config{}, key).Decode(t.Context(), pool, "p", stored); err != nil || string(plain) != secret {
			t.Errorf("another process: %q, %v", plain, err)
		}
	}
}

func TestConfigAndKeysThatMakeNoSense(t *testing.T) {
	t.Parallel()
	if _, err := codec.New(codec.Config{KeepKeys: -1}); err == nil {
		t.Error("a negative KeepKeys is taken")
	}
	good := newKey(t, "k1")
	for _, text := range []string{"", "# nothing\n", "k1", "k1:" + secret, good + "," + good, ":AAAA", strings.TrimPrefix(good, "k1:"), "k 1:x"} {
		_, err := codec.ParseKeys(text)
		if err == nil {
			t.Errorf("%q is taken for a keyring", text)
			continue
		}
		if key := strings.TrimPrefix(good, "k1:"); strings.Contains(err.Error(), key) || strings.Contains(err.Error(), secret) {
			t.Errorf("the error shows a key: %v", err)
		}
	}
	ring, err := codec.ParseKeys("# the new one\n" + newKey(t, "k2") + "\n\n" + good + ", " + newKey(t, "k0"))
	if err != nil || ring.Current() != "k2" {
		t.Errorf("%v, %v; want k2 as the current key", ring, err)
	}
	if _, err := codec.NewKey("a:b"); err == nil {
		t.Error("a name with a colon is taken")
	}
}
