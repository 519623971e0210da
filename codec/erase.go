package codec

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/sql"
)

// EraseOptions are who erases, and why. It is kept.
type EraseOptions struct {
	By     string // "": the user of the database's session
	Reason string // needed
	// Force erases even while sagas of the subject have not ended, which are stuck then, and while messages wait to
	// be published, which become dead letters.
	Force bool
}

// Erasure is what became of a subject.
type Erasure struct {
	Subject  string    `json:"subject"`
	ErasedAt time.Time `json:"erased_at"`
	By       string    `json:"by"`
	Reason   string    `json:"reason"`
	Before   bool      `json:"before"` // it had been erased already, as is told here
	// What Force has left behind:
	Unfinished int `json:"unfinished_sagas"`
	Pending    int `json:"pending_messages"`
}

var (
	// ErrNoSubject: nothing was ever encoded for the subject.
	ErrNoSubject = errors.New("codec: no such subject")
	// ErrInUse: sagas of the subject have not ended, or messages wait to be published.
	ErrInUse = errors.New("codec: the subject is in use")
)

// Erase destroys the data key of a subject, in tx: when it has committed, no payload of the subject can be decoded any more.
// Processes that have the key in memory may do so for KeepKeys longer (1 min by default). The row stays, and says who erased it and why.
// So does the audit, which commits with it and names the key by its id ([Find]), not the subject.
// New sagas and messages of the subject are refused from then on. It waits for transactions that have started or published some; tx has to be
// READ COMMITTED, so that it sees them.
//
// Errors: [ErrNoSubject]; [ErrInUse] without Force.
func Erase(ctx context.Context, tx pgx.Tx, subject string, o EraseOptions) (Erasure, error) {
	e := Erasure{Subject: subject}
	err := tx.QueryRow(ctx, sql.DataKeyErase, subject, o.By, o.Reason, o.Force).Scan(&e.ErasedAt, &e.By, &e.Reason, &e.Before, &e.Unfinished, &e.Pending)
	switch sql.State(err) {
	case sql.StateNoSubject:
		err = fmt.Errorf("%w: %w", ErrNoSubject, err)
	case sql.StateInUse:
		err = fmt.Errorf("%w: %w", ErrInUse, err)
	}
	if err != nil {
		return e, fmt.Errorf("erase subject %q: %w", subject, err)
	}
	return e, nil
}

// SubjectKey is a subject's data key as it lies in the database, without the key.
type SubjectKey struct {
	Key       Key        `json:"-"`
	KeyName   string     `json:"key_name,omitempty"` // of the key-encryption key; "": erased
	CreatedAt time.Time  `json:"created_at"`
	WrappedAt time.Time  `json:"wrapped_at"`
	ErasedAt  *time.Time `json:"erased_at,omitempty"`
	ErasedBy  string     `json:"erased_by,omitempty"`
	Reason    string     `json:"reason,omitempty"`
}

// Find tells of a subject's key. Error: [ErrNoSubject].
func Find(ctx context.Context, db sql.Querier, subject string) (SubjectKey, error) {
	var s SubjectKey
	var id string
	err := db.QueryRow(ctx, sql.DataKeyShow, subject).Scan(&id, &s.KeyName, &s.CreatedAt, &s.WrappedAt, &s.ErasedAt, &s.ErasedBy, &s.Reason)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNoSubject
	}
	if err != nil {
		return s, fmt.Errorf("subject %q: %w", subject, err)
	}
	parsed, err := uuid.Parse(id)
	s.Key = Key(parsed)
	return s, err
}

// By says who sees to something, and why, for the audit.
type By = sql.By

// rotatePage is how many data keys one transaction wraps anew.
const rotatePage = 200

// Rotate wraps all data keys anew that are not under the keyring's current key, and says how many. Then the other keys can
// leave the keyring. It works in small steps, beside everything else, and may be run again. Who does it is in the audit
// before the first, and how many there were after the last; nothing of that: it was broken off.
func (c *Codec) Rotate(ctx context.Context, db sql.Querier, by By) (n int, err error) {
	if c == nil || c.keyring == nil {
		return 0, fmt.Errorf("codec: rotate: %w: there is no keyring", ErrNoKey)
	}
	current := c.keyring.Current()
	var audit int64
	what, err := json.Marshal(map[string]string{"to": current})
	if err != nil {
		return 0, fmt.Errorf("codec: rotate: %w", err)
	}
	if err := db.QueryRow(ctx, sql.AuditBegin, "codec", "rotate", by.Actor, by.Reason, string(what)).Scan(&audit); err != nil {
		return 0, fmt.Errorf("codec: rotate: %w", err)
	}
	after := ""
	for {
		rows, err := db.Query(ctx, sql.DataKeyOld, current, after, rotatePage)
		if err != nil {
			return n, fmt.Errorf("codec: rotate, after %d keys: %w", n, err)
		}
		page, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (k row, err error) {
			return k, r.Scan(&k.id, &k.keyName, &k.wrapped)
		})
		if err != nil {
			return n, fmt.Errorf("codec: rotate, after %d keys: %w", n, err)
		}
		for _, r := range page {
			after = r.id
			done, err := c.rewrap(ctx, db, r)
			if err != nil {
				return n, fmt.Errorf("codec: rotate data key %s, after %d keys: %w", r.id, n, err)
			}
			if done {
				n++
			}
		}
		if len(page) < rotatePage {
			if _, err := db.Exec(ctx, sql.AuditAnswer, audit, "obeyed", fmt.Sprintf("%d data keys", n)); err != nil {
				return n, fmt.Errorf("codec: rotate, after %d keys: %w", n, err)
			}
			return n, nil
		}
	}
}

// rewrap wraps one data key anew. The row must still be as it was read: an erasure meanwhile would be undone.
func (c *Codec) rewrap(ctx context.Context, db sql.Querier, r row) (bool, error) {
	id, err := uuid.Parse(r.id)
	if err != nil {
		return false, err
	}
	secret, err := c.keyring.Unwrap(ctx, *r.keyName, about(Key(id)), r.wrapped)
	if err != nil {
		return false, err
	}
	wrapped, err := c.keyring.Wrap(ctx, about(Key(id)), secret)
	if err != nil {
		return false, err
	}
	tag, err := db.Exec(ctx, sql.DataKeyWrap, r.id, r.wrapped, c.keyring.Current(), wrapped)
	return tag.RowsAffected() == 1, err
}

// KeyUse is how many data keys a key-encryption key wraps. With none it is not needed any more, but for backups.
type KeyUse struct {
	Name     string `json:"name"` // "": erased ones
	DataKeys int    `json:"data_keys"`
	Current  bool   `json:"current"` // new ones are wrapped by it
	Held     bool   `json:"held"`    // it is in the keyring, and what it wraps can be read
}

// Uses counts the data keys by what wraps them.
func (c *Codec) Uses(ctx context.Context, db sql.Querier) ([]KeyUse, error) {
	rows, err := db.Query(ctx, sql.DataKeyUses)
	if err != nil {
		return nil, err
	}
	type sample struct {
		id      string
		wrapped []byte
	}
	var samples []sample
	uses, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (u KeyUse, err error) {
		var s sample
		err = r.Scan(&u.Name, &u.DataKeys, &s.id, &s.wrapped)
		samples = append(samples, s)
		return u, err
	})
	if err != nil || c == nil || c.keyring == nil {
		return uses, err
	}
	listed := false
	for i := range uses {
		u := &uses[i]
		if u.Name == "" {
			continue
		}
		id, err := uuid.Parse(samples[i].id)
		if err != nil {
			return nil, err
		}
		_, err = c.keyring.Unwrap(ctx, u.Name, about(Key(id)), samples[i].wrapped)
		u.Held, u.Current = err == nil, u.Name == c.keyring.Current()
		listed = listed || u.Current
	}
	if !listed {
		uses = append(uses, KeyUse{Name: c.keyring.Current(), Current: true, Held: true})
	}
	return uses, nil
}
