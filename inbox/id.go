package inbox

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
)

// Ids between these keep their value: the UUIDv7s of 2020 to 2100. The rule knows no clock. One that asked
// how far an id lies from now would give the same event two names, and so two effects.
var (
	firstKept  = uuid.MustParse("016f5e66-e800-0000-0000-000000000000")
	beyondKept = uuid.MustParse("03bb2cc3-d800-0000-0000-000000000000")
)

// EventID is what an event is called in pgsagaz.consumer_inbox: a UUIDv7 in its usual form is kept, and any
// other id becomes a UUID made of it and its source. pgsagaz.inbox_event_id computes the same.
func EventID(source, id string) uuid.UUID {
	if u, ok := kept(id); ok {
		return u
	}
	return hashed(source, id)
}

func kept(id string) (uuid.UUID, bool) {
	if len(id) != 36 {
		return uuid.UUID{}, false
	}
	u, err := uuid.Parse(id)
	ok := err == nil && u.Version() == 7 && u.Variant() == uuid.RFC4122 &&
		string(u[:]) >= string(firstKept[:]) && string(u[:]) < string(beyondKept[:])
	return u, ok
}

// hashed makes a UUID of version 8 that begins with ff, where the partition of foreign ids is.
func hashed(source, id string) uuid.UUID {
	sum := sha256.Sum256([]byte(source + "\x00" + id))
	u := uuid.UUID(sum[:16])
	u[0] = 0xff
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return u
}

// identity is what a processing of m is claimed as, and what that was made of where it is a hash.
func identity(m *Message) (id uuid.UUID, foreign string, err error) {
	for _, part := range []string{m.ID, m.Source, m.Attempt} {
		// Two such ids could be one in Postgres, which stores neither.
		if strings.Contains(part, "\x00") || !utf8.ValidString(part) {
			return uuid.UUID{}, "", fmt.Errorf("%w: %q is not text", ErrNoID, part)
		}
	}
	if m.ID == "" {
		return uuid.UUID{}, "", ErrNoID
	}
	id, ok := kept(m.ID)
	if !ok {
		id, foreign = hashed(m.Source, m.ID), m.ID
	}
	if m.Attempt != "" {
		// Together with the event: a replay of many may give all the same attempt id.
		id, foreign = hashed(id.String(), m.Attempt), m.ID+" attempt "+m.Attempt
	}
	return id, foreign, nil
}

// EventID is what this processing of the message is called in pgsagaz.consumer_inbox, with its attempt if it has
// one. It makes a good idempotency key for whatever the handler starts.
func (m Message) EventID() uuid.UUID {
	id := EventID(m.Source, m.ID)
	if m.Attempt != "" {
		id = hashed(id.String(), m.Attempt)
	}
	return id
}
