package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

// BankClient calls the payment service of a card. The zero value is ready.
type BankClient struct {
	http.Client
}

// What the bank says for good: trying again is of no use, and nothing has been charged.
var (
	errDeclined  = errors.New("declined")
	errCancelled = errors.New("cancelled")
)

// Charge charges the card, once a key. An error that is not terminal leaves open whether it did.
func (b *BankClient) Charge(ctx context.Context, key string, card Card, cents int64) (Payment, error) {
	p, status, err := b.post(ctx, card.Bank+"/charges", key, bankRequest{Card: card.Number, Cents: cents})
	switch status {
	case http.StatusPaymentRequired:
		return p, pgengine.Terminal(fmt.Errorf("%w: %w", errDeclined, err))
	case http.StatusConflict:
		return p, pgengine.Terminal(fmt.Errorf("%w: %w", errCancelled, err))
	}
	return p, err
}

// FindOrCancel tells whether the charge with this key happened. If not, it never will.
func (b *BankClient) FindOrCancel(ctx context.Context, key string, card Card) (p Payment, found bool, err error) {
	p, status, err := b.post(ctx, card.Bank+"/lookups", "", bankRequest{Key: key})
	if status == http.StatusNotFound {
		return p, false, nil
	}
	return p, err == nil, err
}

// Refund gives back what was charged with chargeKey, or sees to it that it is never charged.
func (b *BankClient) Refund(ctx context.Context, key string, card Card, chargeKey string) error {
	_, _, err := b.post(ctx, card.Bank+"/refunds", key, bankRequest{Key: chargeKey})
	return err
}

// post returns the status 0 where there was no answer.
func (b *BankClient) post(ctx context.Context, url, key string, body bankRequest) (p Payment, status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, bankPatience)
	defer cancel()
	raw, err := json.Marshal(body)
	if err != nil {
		return p, 0, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(raw))
	if err != nil {
		return p, 0, err
	}
	r.Header.Set("Content-Type", "application/json")
	if key != "" {
		r.Header.Set("Idempotency-Key", key)
	}
	response, err := b.Do(r)
	if err != nil {
		return p, 0, err
	}
	defer response.Body.Close()
	said, err := io.ReadAll(io.LimitReader(response.Body, 1<<16))
	if err != nil {
		return p, 0, fmt.Errorf("%s: the answer was cut off: %w", url, err)
	}
	if response.StatusCode != http.StatusOK {
		return p, response.StatusCode, fmt.Errorf("%s: %s", response.Status, strings.TrimSpace(string(said)))
	}
	return p, response.StatusCode, json.Unmarshal(said, &p)
}
