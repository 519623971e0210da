package inbox

import "context"

// Delivery is one delivery of a message. The same message may be delivered many times.
type Delivery struct {
	Message Message
	// Err says why no message could be made of what came: it is dead-lettered. Message then holds what there
	// is: the payload and the headers as they came, and an ID made of the place.
	Err error
	// Redelivered is how often the broker says that it has delivered the message before. 0 also if it
	// does not say.
	Redelivered int
	// Revoked is closed when the broker has given the message to somebody else, as after a rebalance. The
	// consumer then drops it unless it is being handled. nil: the source never knows.
	Revoked <-chan struct{}
	// Tag is the source's own: whatever it needs for Ack.
	Tag any
}

// Source delivers the messages of a broker, at least once each. Every adapter passes inboxtest.TestSource.
type Source interface {
	// Fetch waits for messages and returns what there is: one at least, max at most. The messages of a key
	// come in their order, but for those that are delivered again. It is called from one goroutine, and
	// not at all while the consumer has its hands full: that is the back-pressure.
	//
	// It returns when ctx ends, with its error, and has then lost nothing. After any other error it is
	// called again, after a pause; to connect again is its own affair.
	Fetch(ctx context.Context, max int) ([]Delivery, error)
	// Ack says that messages have been dealt with for good: after the commit. It is called from several
	// goroutines, while Fetch waits too, and in any order: a broker that knows but a position in a log is told
	// how far all before it were acked. A delivery that is no longer this source's, of a lost connection or
	// an earlier generation, is passed over. After an error it is tried a few times more; then the messages may be
	// delivered again.
	Ack(ctx context.Context, deliveries []Delivery) error
	// Release gives back messages that were not dealt with, to be delivered again, here or elsewhere. It
	// may leave that to Close, which follows.
	Release(ctx context.Context, deliveries []Delivery) error
	// Close leaves. What was fetched and not acked is delivered again, to whoever is there. No other call
	// is under way or follows.
	Close() error
}

// Lagger is a source that knows how many messages wait that it has not fetched.
type Lagger interface {
	Lag(ctx context.Context) (int64, error)
}
