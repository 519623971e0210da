package demo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Mail pretends to send mails. Every tenth does not go out.
type Mail struct{}

// Send returns the id of the mail.
func (Mail) Send(ctx context.Context, key, to string, p Payment) (string, error) {
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case <-time.After(time.Millisecond + rand.N(4*time.Millisecond)):
	}
	if rand.IntN(10) == 0 {
		return "", errors.New("the mail server is busy")
	}
	return fmt.Sprintf("<%s@demo> to %s: %d cents paid", key, to, p.Cents), nil
}
