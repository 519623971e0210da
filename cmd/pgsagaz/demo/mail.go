package demo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Mail pretends to send mails.
type Mail struct {
	// Busy is the share of mails that do not go out, 0 to 1.
	Busy float64
}

// Send returns the id of the mail.
func (m Mail) Send(ctx context.Context, key, to string, p Payment) (string, error) {
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case <-time.After(time.Millisecond + rand.N(4*time.Millisecond)):
	}
	if rand.Float64() < m.Busy {
		return "", errors.New("the mail server is busy")
	}
	return fmt.Sprintf("<%s@demo> to %s: %d cents paid", key, to, p.Cents), nil
}
