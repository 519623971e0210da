package inbox

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/sql"
)

// ByType hands each message to the handler of its type, and those of no such type to otherwise. otherwise nil: they
// are dead-lettered. [Ignore] passes them over.
func ByType(handlers map[string]Handler, otherwise Handler) Handler {
	return route("type", handlers, otherwise, func(m Message) string { return m.Type })
}

// ByTopic is [ByType] by the message's topic.
func ByTopic(handlers map[string]Handler, otherwise Handler) Handler {
	return route("topic", handlers, otherwise, func(m Message) string { return m.Topic })
}

func route(what string, handlers map[string]Handler, otherwise Handler, by func(Message) string) Handler {
	return func(ctx context.Context, tx pgx.Tx, m Message) error {
		if h := handlers[by(m)]; h != nil {
			return h(ctx, tx, m)
		}
		if otherwise != nil {
			return otherwise(ctx, tx, m)
		}
		return Terminal(fmt.Errorf("inbox: no handler for messages of %s %q", what, by(m)))
	}
}

// Ignore is a handler that does nothing: the message counts as taken.
func Ignore(context.Context, pgx.Tx, Message) error { return nil }

// Rate lets a handler run at most once every so often, in all processes together, and burst times at once after
// a quiet time. What comes too early is handled later, and nothing is dropped. name tells one rate from another.
func Rate(name string, every time.Duration, burst int, h Handler) Handler {
	return func(ctx context.Context, tx pgx.Tx, m Message) error {
		var taken bool
		var seconds float64
		if err := tx.QueryRow(ctx, sql.InboxRateTake, name, every, max(burst, 1)).Scan(&taken, &seconds); err != nil {
			return fmt.Errorf("rate %s: %w", name, err)
		}
		if !taken {
			delay := max(time.Duration(seconds*float64(time.Second)), time.Millisecond)
			return Later(delay+jitter(every/4), fmt.Sprintf("rate %s: one every %v", name, every))
		}
		return h(ctx, tx, m)
	}
}
