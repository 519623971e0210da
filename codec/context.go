package codec

import (
	"context"

	"github.com/pgsagaz/pgsagaz/sql"
)

type contextKey struct{}

type carried struct {
	codec   *Codec
	key     Key
	subject string
}

// With says in ctx which codec payloads go through, and whose they are, for functions that have no Config: outbox.Publish and
// what reads dead letters. Inside a step and a handler the engine and the consumer have said so already. subject "": nobody's.
func With(ctx context.Context, c *Codec, subject string) context.Context {
	return context.WithValue(ctx, contextKey{}, carried{codec: c, subject: subject})
}

// WithKey is [With] for a key that is known.
func WithKey(ctx context.Context, c *Codec, k Key) context.Context {
	if c == nil {
		return ctx
	}
	return context.WithValue(ctx, contextKey{}, carried{codec: c, key: k})
}

// From is the codec that ctx carries, nil if none.
func From(ctx context.Context) *Codec {
	v, _ := ctx.Value(contextKey{}).(carried)
	return v.codec
}

// EncodeFor is [Codec.Encode] with the codec of ctx, for its subject.
func EncodeFor(ctx context.Context, db sql.Querier, place string, plain []byte) ([]byte, error) {
	v, _ := ctx.Value(contextKey{}).(carried)
	k := v.key
	if v.subject != "" {
		var err error
		if k, err = v.codec.KeyOf(ctx, db, v.subject); err != nil {
			return nil, err
		}
	}
	return v.codec.Encode(ctx, db, k, place, plain)
}
