package inbox

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// WebhookConfig says how requests become messages. Message is needed; the zero value of the others is their default.
type WebhookConfig struct {
	// Message makes a message of a request whose body has been read. It must give the sender's id of the event, the
	// same in each delivery. An error is the sender's mistake: 400.
	Message func(r *http.Request, body []byte) (Message, error)
	// Verify checks that the request comes from who it says, usually by a signature: see [HMAC]. An error is
	// a 401, and is not told to the sender. nil: whoever reaches the address is believed.
	Verify func(r *http.Request, body []byte) error
	// MaxBody is the largest body, in bytes. 0: 1 MiB.
	MaxBody int64
	// MaxWaiting is how many requests may wait for the consumer to fetch them. 0: 1000.
	MaxWaiting int
	// Timeout is how long a request waits for its message to be dealt with. 0: 10 s.
	Timeout time.Duration
}

// Webhook is a source whose messages come by HTTP: an http.Handler for the sender, and a [Source] for a [Consumer].
// A request is answered when its message has been dealt with, and that is committed:
//
//	200  it has taken effect, now or by an earlier delivery; or it was given up, and lies among the dead letters
//	400  no message could be made of it; 401 its signature is wrong; 405 it is no POST; 413 it is too large
//	503  not in time, or the consumer does not run: the sender should send it again
//
// A message that has failed and waits for its next attempt goes on waiting in the consumer when its request
// is answered with 503. If the sender comes again, that is a duplicate as any other.
type Webhook struct {
	cfg     WebhookConfig
	waiting chan *call
	closed  chan struct{}
	close   sync.Once
}

// call is a request that waits for its message.
type call struct {
	message Message
	done    chan bool // dealt with, or given back
}

// NewWebhook makes a webhook.
func NewWebhook(cfg WebhookConfig) (*Webhook, error) {
	if cfg.Message == nil {
		return nil, errors.New("inbox: a webhook needs WebhookConfig.Message")
	}
	if cfg.MaxBody <= 0 {
		cfg.MaxBody = 1 << 20
	}
	if cfg.MaxWaiting <= 0 {
		cfg.MaxWaiting = 1000
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 10 * time.Second
	}
	return &Webhook{cfg: cfg, waiting: make(chan *call, cfg.MaxWaiting), closed: make(chan struct{})}, nil
}

// ServeHTTP takes one message.
func (w *Webhook) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		rw.Header().Set("Allow", http.MethodPost)
		http.Error(rw, "send a POST", http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, w.cfg.MaxBody))
	if err != nil {
		if errors.As(err, new(*http.MaxBytesError)) {
			http.Error(rw, fmt.Sprintf("the body is larger than %d bytes", w.cfg.MaxBody), http.StatusRequestEntityTooLarge)
			return
		}
		http.Error(rw, "the body could not be read", http.StatusBadRequest)
		return
	}
	if w.cfg.Verify != nil {
		if err := w.cfg.Verify(r, body); err != nil {
			http.Error(rw, "the signature does not fit", http.StatusUnauthorized)
			return
		}
	}
	m, err := w.cfg.Message(r, body)
	if err == nil {
		_, _, err = identity(&m)
	}
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	if m.TraceParent == "" {
		m.TraceParent = r.Header.Get("Traceparent")
	}
	if m.Payload == nil {
		m.Payload = body
	}
	again := func() {
		rw.Header().Set("Retry-After", "5")
		http.Error(rw, "not dealt with yet: send it again", http.StatusServiceUnavailable)
	}
	c := &call{message: m, done: make(chan bool, 1)}
	timeout := time.NewTimer(w.cfg.Timeout)
	defer timeout.Stop()
	select {
	case w.waiting <- c:
	default: // too many: it would only wait
		again()
		return
	}
	select {
	case ok := <-c.done:
		if !ok {
			again()
			return
		}
		rw.WriteHeader(http.StatusOK)
	case <-timeout.C:
		again()
	case <-r.Context().Done():
		again()
	case <-w.closed:
		again()
	}
}

// Fetch is [Source]'s.
func (w *Webhook) Fetch(ctx context.Context, max int) ([]Delivery, error) {
	var found []Delivery
	take := func(c *call) { found = append(found, Delivery{Message: c.message, Tag: c}) }
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case c := <-w.waiting:
		take(c)
	}
	for len(found) < max {
		select {
		case c := <-w.waiting:
			take(c)
		default:
			return found, nil
		}
	}
	return found, nil
}

// Ack answers the requests.
func (w *Webhook) Ack(_ context.Context, deliveries []Delivery) error {
	answer(deliveries, true)
	return nil
}

// Release has the senders send again.
func (w *Webhook) Release(_ context.Context, deliveries []Delivery) error {
	answer(deliveries, false)
	return nil
}

func answer(deliveries []Delivery, ok bool) {
	for _, d := range deliveries {
		select {
		case d.Tag.(*call).done <- ok:
		default:
		}
	}
}

// Lag is how many requests wait to be fetched.
func (w *Webhook) Lag(context.Context) (int64, error) { return int64(len(w.waiting)), nil }

// Close has all that wait, and all that come, send again.
func (w *Webhook) Close() error {
	w.close.Do(func() { close(w.closed) })
	return nil
}

// HMAC verifies a signature of the body: hexadecimal HMAC-SHA-256 in a header, with or without "sha256=" before
// it, as many senders of webhooks make it. Several secrets let one be replaced by another.
func HMAC(header string, secrets ...[]byte) func(*http.Request, []byte) error {
	return func(r *http.Request, body []byte) error {
		given, err := hex.DecodeString(strings.TrimPrefix(r.Header.Get(header), "sha256="))
		if err != nil || len(given) == 0 {
			return fmt.Errorf("header %s is no signature", header)
		}
		for _, secret := range secrets {
			mac := hmac.New(sha256.New, secret)
			mac.Write(body)
			if len(secret) > 0 && hmac.Equal(mac.Sum(nil), given) {
				return nil
			}
		}
		return errors.New("wrong signature")
	}
}
