package outbox_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// FuzzSnapshot is the arithmetic that the stream stands on, against a few lines that say what it means. A transaction is seen by a
// snapshot if it is below its end and did not run then. What a snapshot does not see is found again in one of two ways, and in one
// only: by a range from its end on, or by the list of those that ran. And what lies behind a cursor is never read again.
func FuzzSnapshot(f *testing.F) {
	pool := sqltest.New(f)
	f.Add(uint16(10), uint16(5), []byte{0, 3}, uint16(12), int64(7), int64(7), uint16(3), []byte{1})
	f.Add(uint16(3), uint16(0), []byte{}, uint16(3), int64(0), int64(0), uint16(0), []byte{})
	f.Add(uint16(100), uint16(50), []byte{0, 49, 25}, uint16(125), int64(1), int64(9), uint16(60), []byte{5})
	f.Add(uint16(100), uint16(50), []byte{0}, uint16(100), int64(9), int64(9), uint16(9), []byte{0})
	f.Fuzz(func(t *testing.T, low, width uint16, ran []byte, xid uint16, id, last int64, further uint16, stillRan []byte) {
		prev, seenByPrev := snapshot(uint64(low)+3, uint64(width), ran, uint64(xid)+3)
		cur, seenByCur := snapshot(uint64(low)+uint64(width)+3, uint64(further), stillRan, uint64(xid)+3)
		var sees, range_, listed, consumed, unended bool
		if err := pool.QueryRow(t.Context(), `
			SELECT pg_visible_in_snapshot(x, prev), x >= pg_snapshot_xmax(prev), x = ANY (ARRAY(SELECT pg_snapshot_xip(prev))),
			       pgsagaz.outbox_consumed(x, $4, prev, cur, $5), pgsagaz.outbox_consumed(x, $4, prev, NULL, $5)
			FROM (SELECT $1::text::pg_snapshot AS prev, $2::text::pg_snapshot AS cur, $3::text::xid8 AS x) v`,
			prev, cur, fmt.Sprint(uint64(xid)+3), id, last).Scan(&sees, &range_, &listed, &consumed, &unended); err != nil {
			t.Fatal(err)
		}
		if sees != seenByPrev || range_ && listed || sees == (range_ || listed) {
			t.Fatalf("transaction %d and snapshot %s: seen %v, in the range %v, in the list %v", uint64(xid)+3, prev, sees, range_, listed)
		}
		if want := seenByPrev || seenByCur && id <= last; consumed != want || unended != seenByPrev {
			t.Fatalf("transaction %d, id %d, cursor (%s, %s, %d): behind it is %v, want %v", uint64(xid)+3, id, prev, cur, last, consumed, want)
		}
	})
}

// snapshot is one from low to low+width, in which the transactions at the offsets ran; and whether it sees xid.
func snapshot(low, width uint64, offsets []byte, xid uint64) (text string, sees bool) {
	var ran []uint64
	for _, o := range offsets {
		if uint64(o) < width {
			ran = append(ran, low+uint64(o))
		}
	}
	slices.Sort(ran)
	ran = slices.Compact(ran)
	var list []string
	for _, x := range ran {
		list = append(list, fmt.Sprint(x))
	}
	return fmt.Sprintf("%d:%d:%s", low, low+width, strings.Join(list, ",")), xid < low+width && !slices.Contains(ran, xid)
}

// FuzzPublish: whatever is published comes out as it went in, or is refused with nothing written. No text gets out of its place in a
// statement.
func FuzzPublish(f *testing.F) {
	pool := sqltest.New(f)
	f.Add("t", "k", "type", "route", []byte("x"), "name", "value")
	f.Add("t'; DROP TABLE pgsagaz.outbox; --", `"; SELECT 1; --`, "$1", "\\", []byte{0, 0xff}, `{"a":`, "\u2028\"")
	f.Add("\x00", "\xff", "", "", []byte(nil), "", "")
	f.Add("t", "", "", "", []byte{}, "é", "\x00")
	f.Fuzz(func(t *testing.T, topic, key, kind, route string, payload []byte, name, value string) {
		tx, err := pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback(t.Context()) }()
		if err := outbox.Publish(t.Context(), tx, outbox.Message{Topic: topic, Key: key, Type: kind, RoutingKey: route, Payload: payload, Headers: map[string]string{name: value}}); err != nil {
			return
		}
		var gotTopic, gotKey, gotKind, gotValue string
		var gotPayload []byte
		if err := tx.QueryRow(t.Context(), `SELECT topic, coalesce(key, ''), type, payload, headers ->> $1::text FROM pgsagaz.outbox`, name).Scan(&gotTopic, &gotKey, &gotKind, &gotPayload, &gotValue); err != nil {
			t.Fatal(err)
		}
		if gotTopic != topic || gotKey != key || kind != "" && gotKind != kind || string(gotPayload) != string(payload) || gotValue != strings.ToValidUTF8(value, "\ufffd") {
			t.Fatalf("topic %q, key %q, type %q, payload %q, header %q became %q, %q, %q, %q, %q", topic, key, kind, payload, value, gotTopic, gotKey, gotKind, gotPayload, gotValue)
		}
	})
}
