package codec

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/pgsagaz/pgsagaz/sql"
)

// Config says what a [Codec] does. The zero value does nothing but read what is plain.
type Config struct {
	// Keyring wraps the data keys. nil: payloads are not encrypted, and encrypted ones can't be read.
	Keyring Keyring
	// Compress payloads that get smaller by it.
	Compress bool
	// KeepKeys is for how long a data key stays in this process's memory, and so how long after its erasure this process
	// may still read its payloads. 0: 1 min.
	KeepKeys time.Duration
	// MaxKeys is how many data keys are kept at most. 0: 10,000, some 10 MB.
	MaxKeys int
}

// Codec encodes payloads and decodes them. Safe for concurrent use; one serves a whole process. A nil *Codec encodes
// nothing, and refuses to pass an encoded payload for a plain one.
type Codec struct {
	keyring  Keyring
	compress bool
	keys     *keys
}

// New makes a codec. The database is not touched.
func New(cfg Config) (*Codec, error) {
	if cfg.KeepKeys == 0 {
		cfg.KeepKeys = time.Minute
	}
	if cfg.MaxKeys == 0 {
		cfg.MaxKeys = 10_000
	}
	if cfg.KeepKeys < 0 || cfg.MaxKeys < 0 {
		return nil, fmt.Errorf("codec: KeepKeys is %v and MaxKeys %d: they must not be negative", cfg.KeepKeys, cfg.MaxKeys)
	}
	return &Codec{keyring: cfg.Keyring, compress: cfg.Compress, keys: newKeys(cfg.KeepKeys, cfg.MaxKeys)}, nil
}

// Key names a data key. The zero value is the common one, of payloads that are nobody's.
type Key uuid.UUID

func (k Key) String() string { return uuid.UUID(k).String() }

// Why a payload can't be encoded or decoded, to be asked with errors.Is. Each comes inside an [*Error].
var (
	// ErrErased: the subject's key was destroyed. It stays so.
	ErrErased = errors.New("the subject of this payload was erased")
	// ErrNoCodec: the payload is encoded, and this process was given no codec.
	ErrNoCodec = errors.New("the payload is encoded, and no codec is configured here")
	// ErrNoKey: the keyring lacks the key-encryption key, or there is no keyring.
	ErrNoKey = errors.New("the key-encryption key is not in the keyring")
	// ErrUnknownKey: the database has no such data key, as after a restore of less than the whole schema.
	ErrUnknownKey = errors.New("the data key is not in the database")
	// ErrCorrupt: the bytes are not what was once written, or not where they were written.
	ErrCorrupt = errors.New("the payload was damaged, or belongs elsewhere")
	// ErrReserved: plain JSON looks like an encoded payload, and there is no codec to wrap it.
	ErrReserved = errors.New("the payload begins as only encoded ones may")
	// ErrNotKept: it could not be encoded, for its own fault, and was not stored. See [NotKept].
	ErrNotKept = errors.New("the payload could not be encoded and was not kept")
)

// ErrSubject: a subject is not text of at most 512 bytes, as Postgres takes it. It comes without an [*Error].
var ErrSubject = errors.New("codec: the subject is no name")

// Error is why a payload can't be encoded or decoded. It never shows the payload. Errors of the database are not
// of this type.
type Error struct {
	Place string // what the payload is, say "result of order"
	Key   Key
	Err   error
}

func (e *Error) Error() string {
	if e.Key == (Key{}) {
		return fmt.Sprintf("codec: %s: %v", e.Place, e.Err)
	}
	return fmt.Sprintf("codec: %s (data key %s): %v", e.Place, e.Key, e.Err)
}

// Final says that no other process and no later day decodes it. What is not final is a matter of keys that are not to be had here
// and now, and nobody's failed attempt.
func (e *Error) Final() bool {
	return errors.Is(e, ErrErased) || errors.Is(e, ErrCorrupt) || errors.Is(e, ErrReserved) || errors.Is(e, ErrUnknownKey) ||
		errors.Is(e, ErrNotKept)
}

// Unwrap returns one of the errors above, or the keyring's.
func (e *Error) Unwrap() error { return e.Err }

// KeyOf finds the data key of a subject and, for a new one, makes it: in the transaction of db, if that is one. "" is nobody, and
// has the common key. Error: an [*Error] with [ErrErased]; [ErrSubject]; the database's.
func (c *Codec) KeyOf(ctx context.Context, db sql.Querier, subject string) (Key, error) {
	if c == nil || c.keyring == nil || subject == "" {
		return Key{}, nil
	}
	if len(subject) > maxSubject {
		return Key{}, fmt.Errorf("%w: it has %d bytes, at most %d are allowed", ErrSubject, len(subject), maxSubject)
	}
	if !utf8.ValidString(subject) || strings.Contains(subject, "\x00") { // else it would cost the caller his transaction
		return Key{}, fmt.Errorf("%w: %q is not text", ErrSubject, subject)
	}
	k, err := c.keys.of(ctx, db, c.keyring, subject)
	if err != nil {
		return Key{}, err
	}
	return k.id, nil
}

// maxSubject is how many bytes the name of a subject may have: it stands in an index.
const maxSubject = 512

// Encode makes what is stored of a payload, for a column of bytes. place says what it is: only with the same is it
// decoded.
func (c *Codec) Encode(ctx context.Context, db sql.Querier, k Key, place string, plain []byte) ([]byte, error) {
	if c == nil {
		if encoded(plain) {
			return (&frame{body: plain}).marshal(), nil // wrapped, so that it is not taken for what it looks like
		}
		return plain, nil
	}
	f, _, err := c.frame(ctx, db, k, place, plain)
	if err != nil {
		return nil, err
	}
	if f.flags == 0 && !encoded(plain) {
		return plain, nil
	}
	return f.marshal(), nil
}

// frame encodes a payload, and gives the key that it is under; nil: none.
func (c *Codec) frame(ctx context.Context, db sql.Querier, k Key, place string, plain []byte) (frame, *dataKey, error) {
	f := frame{body: plain}
	if c.compress {
		if small := deflate(plain); small != nil {
			f.body, f.flags = small, compressed
		}
	}
	if c.keyring == nil {
		return f, nil, nil
	}
	f.flags |= encrypted
	f.key = k
	key, err := c.keys.get(ctx, db, c.keyring, k, place)
	if err == nil {
		f.body, err = key.seal(f.header(), place, f.body)
	}
	return f, key, err
}

// EncodeJSON is [Codec.Encode] for a column of JSON.
func (c *Codec) EncodeJSON(ctx context.Context, db sql.Querier, k Key, place string, plain json.RawMessage) (json.RawMessage, error) {
	return c.encodeJSON(ctx, db, k, place, plain, false)
}

// EncodeInput is [Codec.EncodeJSON] with a fingerprint, by which two inputs of one subject can be compared as long as
// there is its key.
func (c *Codec) EncodeInput(ctx context.Context, db sql.Querier, k Key, place string, plain json.RawMessage) (json.RawMessage, error) {
	return c.encodeJSON(ctx, db, k, place, plain, true)
}

func (c *Codec) encodeJSON(ctx context.Context, db sql.Querier, k Key, place string, plain json.RawMessage, comparable bool) (json.RawMessage, error) {
	if c == nil {
		if encodedJSON(plain) {
			return nil, &Error{Place: place, Err: ErrReserved}
		}
		return plain, nil
	}
	f, key, err := c.frame(ctx, db, k, place, plain)
	if err != nil {
		return nil, err
	}
	if f.flags == 0 && !encodedJSON(plain) {
		return plain, nil
	}
	e := envelope{Version: 1, Data: f.marshal()}
	if key != nil {
		e.Key = k.String()
		if comparable {
			e.Same = key.fingerprint(canonical(plain))
		}
	}
	return json.Marshal(e)
}

// Decode gives back what [Codec.Encode] was given, and the key that it is under. A plain payload is given back as it is, with
// the common key.
func (c *Codec) Decode(ctx context.Context, db sql.Querier, place string, stored []byte) ([]byte, Key, error) {
	if !encoded(stored) {
		return stored, Key{}, nil
	}
	f, err := unmarshal(stored)
	if err != nil {
		return nil, Key{}, &Error{Place: place, Err: err}
	}
	if f.flags == 0 {
		return f.body, f.key, nil
	}
	if f.flags&unkept != 0 {
		return nil, f.key, &Error{Place: place, Err: ErrNotKept}
	}
	if c == nil {
		return nil, Key{}, &Error{Place: place, Err: ErrNoCodec}
	}
	if f.flags&tombstone != 0 {
		return nil, f.key, &Error{Place: place, Key: f.key, Err: ErrErased}
	}
	if f.flags&encrypted != 0 {
		if c.keyring == nil {
			return nil, f.key, &Error{Place: place, Key: f.key, Err: ErrNoKey}
		}
		key, err := c.keys.get(ctx, db, c.keyring, f.key, place)
		if err != nil {
			return nil, f.key, err
		}
		if f.body, err = key.open(f.header(), place, f.body); err != nil {
			return nil, f.key, &Error{Place: place, Key: f.key, Err: ErrCorrupt}
		}
	}
	if f.flags&compressed != 0 {
		if f.body, err = inflate(f.body); err != nil {
			return nil, f.key, &Error{Place: place, Key: f.key, Err: ErrCorrupt}
		}
	}
	return f.body, f.key, nil
}

// DecodeJSON is [Codec.Decode] for what [Codec.EncodeJSON] has made.
func (c *Codec) DecodeJSON(ctx context.Context, db sql.Querier, place string, stored json.RawMessage) (json.RawMessage, Key, error) {
	if !encodedJSON(stored) {
		return stored, Key{}, nil
	}
	if c == nil {
		return nil, Key{}, &Error{Place: place, Err: ErrNoCodec}
	}
	var e envelope
	if err := json.Unmarshal(stored, &e); err != nil || !encoded(e.Data) {
		return nil, Key{}, &Error{Place: place, Err: ErrCorrupt}
	}
	return c.Decode(ctx, db, place, e.Data)
}

// Erased is what is stored instead of a payload whose subject has been erased before it could be written. It decodes to
// [ErrErased].
func Erased(k Key) []byte { return (&frame{flags: tombstone, key: k}).marshal() }

// NotKept is what is stored instead of a payload that nobody can encode, so that the rest of its message can be stored. It decodes
// to [ErrNotKept].
func NotKept() []byte { return (&frame{flags: unkept}).marshal() }

// KeyIn is the key that a stored JSON payload is under; the common one for a plain payload. Nothing is decoded.
func KeyIn(stored json.RawMessage) Key {
	if !encodedJSON(stored) {
		return Key{}
	}
	var e struct {
		Key string `json:"key"`
	}
	_ = json.Unmarshal(stored, &e) // what does not read has no key
	id, _ := uuid.Parse(e.Key)
	return Key(id)
}

// Shown is what to show of a JSON payload that can't be decoded for the reason err, where it stands among others that can.
func Shown(err error) json.RawMessage {
	word := "unreadable"
	switch {
	case errors.Is(err, ErrErased):
		word = "erased"
	case errors.Is(err, ErrNoCodec), errors.Is(err, ErrNoKey):
		word = "encoded"
	case errors.Is(err, ErrNotKept):
		word = "not kept"
	}
	return json.RawMessage(`{"pgsagaz":"` + word + `"}`)
}

// canonical is JSON in a form that does not depend on white space and the order of keys.
func canonical(raw json.RawMessage) []byte {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return raw
	}
	sorted, err := json.Marshal(v)
	if err != nil {
		return raw
	}
	return sorted
}

func (k *dataKey) fingerprint(plain []byte) []byte {
	mac := hmac.New(sha256.New, k.compare)
	mac.Write(plain)
	return mac.Sum(nil)
}
