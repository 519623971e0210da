package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Faults are how often, from 0 to 1, a call of the bank goes wrong.
type Faults struct {
	Before float64 // it fails before it acts
	After  float64 // it acts, and the answer is lost
	Slow   float64 // it answers when the client has given up; half of these have acted by then, half act later
}

// BankCalls count what the bank was asked and did, failed or not.
type BankCalls struct {
	Calls         int64 `json:"calls"`
	FailedBefore  int64 `json:"failed_before"`
	AnswersLost   int64 `json:"answers_lost"`
	Slow          int64 `json:"slow"`
	Declined      int64 `json:"declined"`
	Repeated      int64 `json:"repeated"`        // a charge or refund whose key was known
	RefusedAsLate int64 `json:"refused_as_late"` // a charge whose key had been cancelled
}

// bank is a payment service: an http server with books of its own. It acts once a key, and remembers
// the keys that were cancelled before they were charged.
//
//	POST /charges   Idempotency-Key: K, {"card", "cents"}    200 payment, 402 declined, 409 cancelled, 422 another amount
//	POST /lookups   {"key": K}                               200 payment, 404 not charged, and it never will be
//	POST /refunds   Idempotency-Key: U, {"key": K}           200
type bank struct {
	pool   *pgxpool.Pool
	faults Faults
	log    *slog.Logger
	server *http.Server
	url    string

	calls, before, after, slow, declined, repeated, late atomic.Int64
}

// bankPatience is how long the bank's clients wait; its slow answers take longer.
const bankPatience = 300 * time.Millisecond

// openBank listens on a free port of this machine. Close it with shut.
func openBank(pool *pgxpool.Pool, f Faults, log *slog.Logger) (*bank, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("open the bank: %w", err)
	}
	b := &bank{pool: pool, faults: f, log: log, url: "http://" + listener.Addr().String()}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /charges", answer(b, b.charge))
	mux.HandleFunc("POST /lookups", answer(b, b.lookup))
	mux.HandleFunc("POST /refunds", answer(b, b.refund))
	b.server = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	go func() {
		if err := b.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("the bank's server ended", "error", err)
		}
	}()
	return b, nil
}

// shut waits for what is still being done: a charge that comes late must not come after the audit.
func (b *bank) shut(ctx context.Context) error { return b.server.Shutdown(ctx) }

func (b *bank) counted() BankCalls {
	return BankCalls{
		Calls: b.calls.Load(), FailedBefore: b.before.Load(), AnswersLost: b.after.Load(), Slow: b.slow.Load(),
		Declined: b.declined.Load(), Repeated: b.repeated.Load(), RefusedAsLate: b.late.Load(),
	}
}

type bankRequest struct {
	Key   string `json:"key"`
	Card  string `json:"card"`
	Cents int64  `json:"cents"`
}

// refusal is an answer that says no.
type refusal struct {
	status int
	words  string
}

func (r *refusal) Error() string { return r.words }

// answer makes a handler of act, with the faults that such services have. A bank does not stop because
// its caller has gone: act's context does not end with the request's.
func answer(b *bank, act func(ctx context.Context, key string, r bankRequest) (Payment, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		b.calls.Add(1)
		var body bankRequest
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			http.Error(w, "the body is not what it should be: "+err.Error(), http.StatusBadRequest)
			return
		}
		time.Sleep(2*time.Millisecond + rand.N(15*time.Millisecond))
		luck := rand.Float64()
		before, after, slow := b.faults.Before, b.faults.Before+b.faults.After, b.faults.Before+b.faults.After+b.faults.Slow
		overslept := bankPatience + bankPatience/4 + rand.N(bankPatience/2)
		switch {
		case luck < before:
			b.before.Add(1)
			http.Error(w, "out of order, nothing was done", http.StatusServiceUnavailable)
			return
		case luck >= after && luck < slow:
			b.slow.Add(1)
			if rand.IntN(2) == 0 {
				time.Sleep(overslept)
			} else {
				defer time.Sleep(overslept)
			}
		}
		p, err := act(context.WithoutCancel(r.Context()), r.Header.Get("Idempotency-Key"), body)
		if luck >= before && luck < after {
			b.after.Add(1)
			w.Header().Set("Content-Length", "100")
			w.WriteHeader(http.StatusOK)
			panic(http.ErrAbortHandler) // the line goes dead in the middle of the answer
		}
		var no *refusal
		switch {
		case errors.As(err, &no):
			http.Error(w, no.words, no.status)
		case err != nil:
			http.Error(w, err.Error(), http.StatusInternalServerError)
		default:
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(p) // the client has gone
		}
	}
}

type bankCharge struct {
	id    int64
	cents int64
	state string
}

// locked runs f with the charge of that key, which is made in the given state unless it is there.
func (b *bank) locked(ctx context.Context, key string, r bankRequest, state string, f func(tx pgx.Tx, c bankCharge, made bool) error) error {
	if key == "" {
		return &refusal{http.StatusBadRequest, "a key is missing"}
	}
	return pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `INSERT INTO bank.charge (key, card, cents, state) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`,
			key, r.Card, r.Cents, state)
		if err != nil {
			return err
		}
		var c bankCharge
		if err := tx.QueryRow(ctx, `SELECT id, cents, state FROM bank.charge WHERE key = $1 FOR UPDATE`, key).
			Scan(&c.id, &c.cents, &c.state); err != nil {
			return err
		}
		return f(tx, c, tag.RowsAffected() == 1)
	})
}

func (b *bank) charge(ctx context.Context, key string, r bankRequest) (p Payment, err error) {
	state := "charged"
	if r.Card == emptyCard {
		state = "declined"
	}
	var no *refusal // is committed, too
	err = b.locked(ctx, key, r, state, func(tx pgx.Tx, c bankCharge, made bool) error {
		if !made {
			b.repeated.Add(1)
		}
		switch {
		case c.state == "cancelled":
			b.late.Add(1)
			no = &refusal{http.StatusConflict, "this key was cancelled before it was charged"}
		case c.cents != r.Cents:
			no = &refusal{http.StatusUnprocessableEntity, "this key was used for another amount"}
		case c.state == "declined":
			b.declined.Add(1)
			no = &refusal{http.StatusPaymentRequired, "the card was declined"}
		case made:
			_, err := tx.Exec(ctx, `INSERT INTO bank.entry (key, cents) VALUES ($1, $2)`, key, c.cents)
			p = Payment{ID: c.id, Cents: c.cents}
			return err
		default:
			p = Payment{ID: c.id, Cents: c.cents}
		}
		return nil
	})
	if err == nil && no != nil {
		err = no
	}
	return p, err
}

func (b *bank) lookup(ctx context.Context, _ string, r bankRequest) (p Payment, err error) {
	err = b.locked(ctx, r.Key, r, "cancelled", func(_ pgx.Tx, c bankCharge, _ bool) error {
		p = Payment{ID: c.id, Cents: c.cents}
		if c.state == "cancelled" || c.state == "declined" {
			p = Payment{}
		}
		return nil
	})
	if err == nil && p.ID == 0 {
		err = &refusal{http.StatusNotFound, "not charged, and it never will be"}
	}
	return p, err
}

func (b *bank) refund(ctx context.Context, undoKey string, r bankRequest) (p Payment, err error) {
	if undoKey == "" {
		return p, &refusal{http.StatusBadRequest, "the header Idempotency-Key is missing"}
	}
	err = b.locked(ctx, r.Key, r, "cancelled", func(tx pgx.Tx, c bankCharge, made bool) error {
		if c.state != "charged" {
			if !made {
				b.repeated.Add(1)
			}
			return nil
		}
		p = Payment{ID: c.id, Cents: c.cents}
		if _, err := tx.Exec(ctx, `UPDATE bank.charge SET state = 'refunded' WHERE key = $1`, r.Key); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `INSERT INTO bank.entry (key, cents) VALUES ($1, $2)`, r.Key, -c.cents)
		return err
	})
	return p, err
}
