package codec

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/sql"
)

// keys are the data keys that this process has in memory, each for a while.
type keys struct {
	keep time.Duration
	most int

	mu        sync.Mutex
	byID      map[Key]entry
	bySubject map[string]Key
}

type entry struct {
	key     *dataKey
	subject string
	until   time.Time
}

func newKeys(keep time.Duration, most int) *keys {
	return &keys{keep: keep, most: most, byID: map[Key]entry{}, bySubject: map[string]Key{}}
}

// row is a data key as it is stored.
type row struct {
	id      string
	subject string
	keyName *string // nil: erased
	wrapped []byte
	mine    bool // made by this transaction, which may yet roll back
}

func about(id Key) []byte { return append([]byte("pgsagaz data key "), id[:]...) }

// of finds the key of a subject, or makes one.
func (ks *keys) of(ctx context.Context, db sql.Querier, ring Keyring, subject string) (*dataKey, error) {
	ks.mu.Lock()
	id, known := ks.bySubject[subject]
	e := ks.byID[id]
	ks.mu.Unlock()
	if known && time.Now().Before(e.until) {
		return e.key, nil
	}
	r, err := find(ctx, db, sql.DataKeyOf, subject)
	if errors.Is(err, pgx.ErrNoRows) {
		r, err = ks.create(ctx, db, ring, uuid.New(), subject)
	}
	if err != nil {
		return nil, err
	}
	return ks.unwrap(ctx, ring, r, "key of a subject")
}

// get finds a key by its id. The common one is made when it is first needed.
func (ks *keys) get(ctx context.Context, db sql.Querier, ring Keyring, id Key, place string) (*dataKey, error) {
	ks.mu.Lock()
	e, known := ks.byID[id]
	ks.mu.Unlock()
	if known && time.Now().Before(e.until) {
		return e.key, nil
	}
	r, err := find(ctx, db, sql.DataKeyGet, id.String())
	if errors.Is(err, pgx.ErrNoRows) {
		if id != (Key{}) {
			return nil, &Error{Place: place, Key: id, Err: ErrUnknownKey}
		}
		r, err = ks.create(ctx, db, ring, uuid.Nil, "")
	}
	if err != nil {
		return nil, err
	}
	return ks.unwrap(ctx, ring, r, place)
}

func find(ctx context.Context, db sql.Querier, statement string, arg any) (r row, err error) {
	err = db.QueryRow(ctx, statement, arg).Scan(&r.id, &r.subject, &r.keyName, &r.wrapped, &r.mine)
	return r, err
}

// create makes a data key. Of two that do it at once, the second waits for the first's end, and takes its key if that
// one commits.
func (ks *keys) create(ctx context.Context, db sql.Querier, ring Keyring, id uuid.UUID, subject string) (row, error) {
	secret := make([]byte, keySize)
	rand.Read(secret) // never fails
	name := ring.Current()
	wrapped, err := ring.Wrap(ctx, about(Key(id)), secret)
	if err != nil {
		return row{}, &Error{Place: "a new data key", Key: Key(id), Err: err}
	}
	if _, err := db.Exec(ctx, sql.DataKeyPut, id.String(), subject, name, wrapped); err != nil {
		return row{}, err
	}
	return find(ctx, db, sql.DataKeyOf, subject)
}

// unwrap makes a stored key usable, and keeps it.
//
// Not one that this very transaction has made: if it rolls back, the key has never been, and whatever another transaction
// wrote under it could not be read again.
func (ks *keys) unwrap(ctx context.Context, ring Keyring, r row, place string) (*dataKey, error) {
	parsed, err := uuid.Parse(r.id)
	if err != nil {
		return nil, err
	}
	id := Key(parsed)
	if r.keyName == nil {
		return nil, &Error{Place: place, Key: id, Err: ErrErased}
	}
	secret, err := ring.Unwrap(ctx, *r.keyName, about(id), r.wrapped)
	if err != nil {
		return nil, &Error{Place: place, Key: id, Err: err}
	}
	k, err := newDataKey(id, secret)
	if err == nil && !r.mine {
		ks.remember(k, r.subject)
	}
	return k, err
}

func (ks *keys) remember(k *dataKey, subject string) {
	ks.mu.Lock()
	defer ks.mu.Unlock()
	now := time.Now()
	if len(ks.byID) >= ks.most {
		for id, e := range ks.byID {
			if !now.Before(e.until) {
				ks.forget(id)
			}
		}
	}
	for id := range ks.byID { // any: what is used will be back
		if len(ks.byID) < ks.most {
			break
		}
		ks.forget(id)
	}
	if ks.most > 0 {
		ks.byID[k.id] = entry{key: k, subject: subject, until: now.Add(ks.keep)}
		ks.bySubject[subject] = k.id
	}
}

// forget is called with mu held.
func (ks *keys) forget(id Key) {
	delete(ks.bySubject, ks.byID[id].subject)
	delete(ks.byID, id)
}

// Load fetches the data keys of stored payloads, as far as they are not in memory, with one statement. Decoding then needs
// none. Keys that can't be had are left out: decoding says why.
func (c *Codec) Load(ctx context.Context, db sql.Querier, stored ...[]byte) error {
	if c == nil || c.keyring == nil {
		return nil
	}
	wanted := map[Key]bool{}
	var ids []string
	now := time.Now()
	c.keys.mu.Lock()
	for _, s := range stored {
		if !encoded(s) {
			continue
		}
		f, err := unmarshal(s)
		if err != nil || f.flags&encrypted == 0 || wanted[f.key] || now.Before(c.keys.byID[f.key].until) {
			continue
		}
		wanted[f.key] = true
		ids = append(ids, f.key.String())
	}
	c.keys.mu.Unlock()
	if len(ids) < 2 {
		return nil
	}
	rows, err := db.Query(ctx, sql.DataKeyList, ids)
	if err != nil {
		return err
	}
	found, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (k row, err error) {
		return k, r.Scan(&k.id, &k.subject, &k.keyName, &k.wrapped, &k.mine)
	})
	if err != nil {
		return err
	}
	for _, r := range found {
		_, _ = c.keys.unwrap(ctx, c.keyring, r, "")
	}
	return nil
}
