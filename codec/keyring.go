package codec

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Keyring holds the key-encryption keys, which wrap data keys. [ParseKeys] makes one of keys in a file; a key management
// service can be one. Wrap and Unwrap are called once for a data key and each KeepKeys of a process, at times in a
// transaction of the caller's: a remote one should answer in milliseconds.
type Keyring interface {
	// Current names the key that Wrap uses. The name is stored with what it wraps.
	Current() string
	// Wrap encrypts a data key, and authenticates about.
	Wrap(ctx context.Context, about, dataKey []byte) ([]byte, error)
	// Unwrap decrypts what was wrapped by the key of that name. [ErrNoKey] if there is none; [ErrCorrupt] if the bytes are not
	// what was once wrapped, which is final. Any other error, of a service that is away or slow, say, is waited out: no
	// message and no step is given up for it.
	Unwrap(ctx context.Context, name string, about, wrapped []byte) ([]byte, error)
}

// staticKeys is a Keyring in memory.
type staticKeys struct {
	current string
	keys    map[string][]byte
}

var keyName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)

// ParseKeys reads a keyring: keys of 32 bytes, each as name:base64, by commas, spaces or lines. The first is the current
// one; those behind it only read. A line that begins with # is none. [NewKey] makes one.
func ParseKeys(text string) (Keyring, error) {
	k := &staticKeys{keys: map[string][]byte{}}
	n := 0
	for line := range strings.Lines(text) {
		if strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		for _, item := range strings.FieldsFunc(line, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\r' || r == '\n' }) {
			n++
			name, encoded, ok := strings.Cut(item, ":")
			if !ok || !keyName.MatchString(name) { // what stands there may be the key itself: it is not shown
				return nil, fmt.Errorf("codec: key %d of the keyring is not of the form name:base64", n)
			}
			key, err := base64.StdEncoding.DecodeString(encoded)
			if err != nil || len(key) != keySize {
				return nil, fmt.Errorf("codec: key %q of the keyring is not %d bytes in base64", name, keySize)
			}
			if k.keys[name] != nil {
				return nil, fmt.Errorf("codec: key %q is in the keyring twice", name)
			}
			if k.current == "" {
				k.current = name
			}
			k.keys[name] = key
		}
	}
	if n == 0 {
		return nil, errors.New("codec: the keyring is empty")
	}
	return k, nil
}

// NewKey makes a random key-encryption key, as [ParseKeys] reads it.
func NewKey(name string) (string, error) {
	if !keyName.MatchString(name) {
		return "", fmt.Errorf("codec: the name of a key, %q, must match %s", name, keyName)
	}
	key := make([]byte, keySize)
	rand.Read(key) // never fails
	return name + ":" + base64.StdEncoding.EncodeToString(key), nil
}

// Current names the first.
func (k *staticKeys) Current() string { return k.current }

// Wrap encrypts with the first.
func (k *staticKeys) Wrap(_ context.Context, about, dataKey []byte) ([]byte, error) {
	return seal(k.keys[k.current], about, dataKey)
}

// Unwrap decrypts with any.
func (k *staticKeys) Unwrap(_ context.Context, name string, about, wrapped []byte) ([]byte, error) {
	key := k.keys[name]
	if key == nil {
		return nil, fmt.Errorf("%w: %q", ErrNoKey, name)
	}
	dataKey, err := open(key, about, wrapped)
	if err != nil {
		err = errors.Join(ErrCorrupt, err)
	}
	return dataKey, err
}
