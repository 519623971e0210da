package pgengine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/sql"
)

// Every payload of a saga goes through seal on its way into Postgres, and through open on its way out. What it is stands in its
// place, so that none passes for another.

func atInput(saga string) string  { return "input of saga " + saga }
func atResult(saga string) string { return "result of saga " + saga }
func atSignal(name string) string { return "signal " + name }

// seal encodes a payload for Postgres.
func (e *Engine) seal(ctx context.Context, db sql.Querier, k codec.Key, place string, plain json.RawMessage) (json.RawMessage, error) {
	stored, err := e.codec.EncodeJSON(ctx, db, k, place, plain)
	return stored, unread(err)
}

// open is the reverse of seal. A payload that can't be decoded, whatever happens, is an [*codec.Error].
func (e *Engine) open(ctx context.Context, db sql.Querier, place string, stored json.RawMessage) (json.RawMessage, error) {
	plain, _, err := e.codec.DecodeJSON(ctx, db, place, stored)
	return plain, unread(err)
}

// unread tells the database's errors from those of a payload.
func unread(err error) error {
	if err == nil || errors.As(err, new(*codec.Error)) {
		return err
	}
	return answered(err)
}

// shown is open for people: what can't be decoded is replaced by a word for why.
func (e *Engine) shown(ctx context.Context, db sql.Querier, place string, stored *json.RawMessage) error {
	plain, err := e.open(ctx, db, place, *stored)
	if _, ok := errors.AsType[*codec.Error](err); ok {
		*stored = codec.Shown(err)
		return nil
	}
	if err == nil {
		*stored = plain
	}
	return err
}

// keep encodes the result that s records.
func (e *Engine) keep(ctx context.Context, db sql.Querier, s *settlement) (err error) {
	if s.rec != nil && s.rec.result != nil {
		s.rec.stored, err = e.seal(ctx, db, s.key, atResult(s.g.name), s.rec.result)
	}
	return err
}

// understand decodes the input of lane l, and takes its key for all that the saga will write. What can't be decoded stops the
// lane at its next step; see perform.
func (e *Engine) understand(ctx context.Context, l *lane, stored json.RawMessage) error {
	l.key = codec.KeyIn(stored)
	input, err := e.open(ctx, e.pool, atInput(l.g.name), stored)
	l.input = input
	return l.excuse(err)
}

// excuse notes why a payload of the saga can't be decoded. Other errors it returns.
func (l *lane) excuse(err error) error {
	if c, ok := errors.AsType[*codec.Error](err); ok {
		l.unreadable = c
		return nil
	}
	return err
}

// closed deals with a lane whose payloads can't be decoded. If that is for good, it waits for an operator, and its saga is
// stuck; if it is for a want of keys in this process, the lane is set aside for another, or a later day.
func (e *Engine) closed(ctx context.Context, l *lane) (bool, error) {
	if !errors.Is(l.unreadable, codec.ErrErased) {
		return false, l.unreadable
	}
	if !l.taken {
		if err := e.untilAnswered(ctx, func() error { return e.begin(ctx, l) }); err != nil {
			return false, err
		}
	}
	return e.park(ctx, l, failure{kind: "error", err: l.unreadable, effect: l.inDoubt})
}

// Subject is an [Input] that says whose data its saga is about, by an id that means nothing to others: the customer's number, and
// not the address. With a codec ([Config.Codec]) the payloads of the saga are encrypted under this subject's own key, and
// can be erased by destroying it. "": nobody's.
type Subject interface{ Subject() string }

// subjectOf asks an input for its subject.
func subjectOf(in any) (subject string, err error) {
	if s, ok := in.(Subject); ok {
		err = guarded(func() error { subject = s.Subject(); return nil })
	}
	if err != nil {
		err = fmt.Errorf("its Subject: %w", err)
	}
	return subject, err
}

// keyOfSaga is the key that a saga's payloads are under, for whoever writes one from outside.
func (e *Engine) keyOfSaga(ctx context.Context, db sql.Querier, id string) (k codec.Key, err error) {
	if e.codec == nil {
		return k, nil
	}
	var raw [16]byte
	err = db.QueryRow(ctx, sql.SagaDataKey, id).Scan(&raw)
	return codec.Key(raw), err
}

// subjectIn is subjectOf for an input as JSON.
func subjectIn[I Input](raw json.RawMessage) (string, error) {
	var in I
	if err := decode(raw, &in); err != nil {
		return "", err
	}
	return subjectOf(in)
}

// misfit says why JSON does not fit a type, without what it holds: the words of encoding/json quote numbers, and those of a
// type's own UnmarshalJSON whatever they like.
func misfit(err error) error {
	if t, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		kind, _, _ := strings.Cut(t.Value, " ")
		if t.Field != "" {
			return fmt.Errorf("a JSON %s does not fit its field %s, a %s", kind, t.Field, t.Type)
		}
		return fmt.Errorf("a JSON %s does not fit a %s", kind, t.Type)
	}
	if s, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("it is not JSON, at byte %d", s.Offset)
	}
	return fmt.Errorf("its own decoding fails with a %T", err)
}

// decode is json.Unmarshal with errors that do not show what is decoded.
func decode(raw json.RawMessage, v any) error {
	if err := json.Unmarshal(raw, v); err != nil {
		return misfit(err)
	}
	return nil
}

// sealInput encodes what a saga is started with. comparable: a second start with the same key is to be told from one with another
// input.
func (e *Engine) sealInput(ctx context.Context, db sql.Querier, saga string, plain json.RawMessage, subject string, comparable bool) (json.RawMessage, error) {
	k, err := e.codec.KeyOf(ctx, db, subject)
	if err != nil {
		return nil, err
	}
	if comparable {
		return e.codec.EncodeInput(ctx, db, k, atInput(saga), plain)
	}
	return e.codec.EncodeJSON(ctx, db, k, atInput(saga), plain)
}

// OfKey gives the sagas whose payloads are under a data key ([codec.Find]), live ones and archived ones, as Get does. Children are among them.
func (e *Engine) OfKey(ctx context.Context, k codec.Key) iter.Seq2[Status, error] {
	return func(yield func(Status, error) bool) {
		rows, err := e.pool.Query(ctx, sql.SagaOfKey, k.String())
		var ids []string
		if err == nil {
			ids, err = pgx.CollectRows(rows, pgx.RowTo[string])
		}
		if err != nil {
			yield(Status{}, fmt.Errorf("sagas of a subject: %w", err))
			return
		}
		for _, id := range ids {
			s, err := e.Get(ctx, id)
			if errors.Is(err, ErrNotFound) { // it has left the archive meanwhile
				continue
			}
			if !yield(s, err) || err != nil {
				return
			}
		}
	}
}

// keyScan reads the key of a payload out of a row, and does not copy the payload.
type keyScan codec.Key

// ScanBytes is pgx's.
func (k *keyScan) ScanBytes(stored []byte) error {
	*k = keyScan(codec.KeyIn(stored))
	return nil
}
