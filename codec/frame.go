package codec

import (
	"bytes"
	"compress/flate"
	"io"
	"sync"
)

// magic begins every encoded payload, with the format's version as its last byte. pgsagaz.payload_key knows it too. No text
// begins with a zero byte.
var magic = []byte("\x00pgs\x01")

// jsonMagic begins every encoded payload in a column of JSON. json columns keep a text as it was written. pgsagaz.start
// knows it too.
var jsonMagic = []byte(`{"pgsagaz":1,`)

// IsEncoded says whether bytes are an encoded payload.
func IsEncoded(stored []byte) bool { return encoded(stored) }

// Under is the key that an encoded payload is under; the common one for any other. Nothing is decoded.
func Under(stored []byte) Key {
	if !encoded(stored) {
		return Key{}
	}
	f, _ := unmarshal(stored) // what does not read has no key
	return f.key
}

func encoded(stored []byte) bool     { return bytes.HasPrefix(stored, magic) }
func encodedJSON(stored []byte) bool { return bytes.HasPrefix(stored, jsonMagic) }

// envelope is an encoded payload in a column of JSON. Version comes first: see jsonMagic.
type envelope struct {
	Version int    `json:"pgsagaz"`
	Key     string `json:"key,omitempty"`  // of the frame, once more, for SQL
	Same    []byte `json:"same,omitempty"` // the fingerprint of an input
	Data    []byte `json:"data"`
}

const (
	encrypted  = 1
	compressed = 2
	tombstone  = 4
	unkept     = 8
)

// frame is an encoded payload.
//
//	magic 5 | flags 1 | key 16, if encrypted or a tombstone | body
type frame struct {
	flags byte
	key   Key
	body  []byte
}

func (f *frame) header() []byte {
	h := append(append(make([]byte, 0, len(magic)+1+len(f.key)+len(f.body)), magic...), f.flags)
	if f.flags&(encrypted|tombstone) != 0 {
		h = append(h, f.key[:]...)
	}
	return h
}

func (f *frame) marshal() []byte { return append(f.header(), f.body...) }

func unmarshal(stored []byte) (frame, error) {
	rest := stored[len(magic):]
	if len(rest) == 0 || rest[0]&^(encrypted|compressed|tombstone|unkept) != 0 {
		return frame{}, ErrCorrupt
	}
	f := frame{flags: rest[0], body: rest[1:]}
	if f.flags&(encrypted|tombstone) != 0 && copy(f.key[:], f.body) < len(f.key) {
		return frame{}, ErrCorrupt
	}
	if f.flags&(encrypted|tombstone) != 0 {
		f.body = f.body[len(f.key):]
	}
	return f, nil
}

// worth is from how many bytes on compression is tried.
const worth = 256

// maxInflated bounds what a damaged or forged payload may grow to.
const maxInflated = 256 << 20

var writers = sync.Pool{New: func() any {
	w, _ := flate.NewWriter(nil, flate.DefaultCompression) // a level that exists
	return w
}}

// deflate compresses. nil: not worth it.
func deflate(plain []byte) []byte {
	if len(plain) < worth {
		return nil
	}
	var b bytes.Buffer
	w := writers.Get().(*flate.Writer)
	defer writers.Put(w)
	w.Reset(&b)
	_, err := w.Write(plain)
	if closed := w.Close(); err != nil || closed != nil || b.Len() >= len(plain) {
		return nil
	}
	return b.Bytes()
}

func inflate(small []byte) ([]byte, error) {
	plain, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(small)), maxInflated+1))
	if err == nil && len(plain) > maxInflated {
		err = ErrCorrupt
	}
	return plain, err
}
