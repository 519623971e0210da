package codec

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
)

const (
	keySize   = 32 // AES-256
	saltSize  = 16
	nonceSize = 12
)

// seal encrypts under a key that is made of secret for this message alone. What comes out is salt, nonce, ciphertext and tag.
func seal(secret, aad, plain []byte) ([]byte, error) {
	out := make([]byte, saltSize+nonceSize, saltSize+nonceSize+len(plain)+16)
	rand.Read(out) // never fails
	aead, err := messageCipher(secret, out[:saltSize])
	if err != nil {
		return nil, err
	}
	return aead.Seal(out, out[saltSize:], plain, aad), nil
}

// open is the reverse of seal.
func open(secret, aad, sealed []byte) ([]byte, error) {
	if len(sealed) < saltSize+nonceSize {
		return nil, ErrCorrupt
	}
	aead, err := messageCipher(secret, sealed[:saltSize])
	if err != nil {
		return nil, err
	}
	return aead.Open(nil, sealed[saltSize:saltSize+nonceSize], sealed[saltSize+nonceSize:], aad)
}

func messageCipher(secret, salt []byte) (cipher.AEAD, error) {
	key, err := hkdf.Expand(sha256.New, secret, "pgsagaz message "+string(salt), keySize)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// dataKey is a data key as it is kept in memory. What compares is not what encrypts.
type dataKey struct {
	id               Key
	encrypt, compare []byte
}

func newDataKey(id Key, secret []byte) (*dataKey, error) {
	k := &dataKey{id: id}
	var err error
	if k.encrypt, err = hkdf.Expand(sha256.New, secret, "pgsagaz encrypt", keySize); err != nil {
		return nil, err
	}
	k.compare, err = hkdf.Expand(sha256.New, secret, "pgsagaz compare", keySize)
	return k, err
}

func (k *dataKey) seal(header []byte, place string, plain []byte) ([]byte, error) {
	return seal(k.encrypt, append(header, place...), plain)
}

func (k *dataKey) open(header []byte, place string, body []byte) ([]byte, error) {
	return open(k.encrypt, append(header, place...), body)
}
