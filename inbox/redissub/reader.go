package redissub

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/pgsagaz/pgsagaz/cloudevents"
	"github.com/pgsagaz/pgsagaz/inbox"
)

// reader reads for one consumer, over one connection. One read is under way at a time.
type reader struct {
	cfg    Config
	client redis.UniversalClient
	held   *held

	connected atomic.Bool       // anew, since the last read began
	grouped   bool              // the groups are there
	starts    map[string]string // by topic: the newest entry when the group was first asked for, where Config.Newest has it begin
	own       map[string]string // of streams whose entries this consumer held already: where to go on with them
	claimed   time.Time         // when abandoned entries were last looked for
}

func (r *reader) init(cfg Config, h *held) {
	options := cfg.Options
	options.PoolSize, options.MinIdleConns = 1, 0
	options.OnConnect = func(context.Context, *redis.Conn) error {
		r.connected.Store(true)
		return nil
	}
	r.cfg, r.held, r.client, r.starts = cfg, h, redis.NewUniversalClient(&options), map[string]string{}
}

// read answers with entries, or with nothing after some time.
func (r *reader) read(ctx context.Context, maximum int) ([]inbox.Delivery, error) {
	if err := r.group(ctx); err != nil {
		return nil, err
	}
	if r.connected.Swap(false) {
		// An answer may have got lost with the connection: its entries lie with this consumer, and nobody has seen them.
		r.held.revokeAll()
		r.own = map[string]string{}
		for _, topic := range r.cfg.Topics {
			r.own[topic] = "-"
		}
	}
	for topic, start := range r.own {
		deliveries, next, err := r.take(ctx, topic, &redis.XPendingExtArgs{Consumer: r.cfg.Consumer, Start: start, End: "+", Count: int64(maximum)})
		if err != nil {
			return nil, err
		}
		if r.own[topic] = next; next == "" {
			delete(r.own, topic)
		}
		if len(deliveries) > 0 {
			return deliveries, nil
		}
	}
	if time.Since(r.claimed) > r.cfg.ClaimAfter/2 {
		for _, topic := range r.cfg.Topics {
			deliveries, _, err := r.take(ctx, topic, &redis.XPendingExtArgs{Idle: r.cfg.ClaimAfter, Start: "-", End: "+", Count: int64(maximum)})
			if err != nil || len(deliveries) > 0 {
				return deliveries, err // and there may be more: claimed is not set yet
			}
		}
		r.claimed = time.Now()
	}
	return r.fresh(ctx, maximum)
}

// group makes the groups, once, and again when one is gone.
func (r *reader) group(ctx context.Context) error {
	if r.grouped {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	for _, topic := range r.cfg.Topics {
		start, err := r.start(ctx, topic)
		if err != nil {
			return fmt.Errorf("stream %s: %w", r.cfg.Prefix+topic, err)
		}
		err = r.client.XGroupCreateMkStream(ctx, r.cfg.Prefix+topic, r.cfg.Group, start).Err()
		if err != nil && !strings.HasPrefix(err.Error(), "BUSYGROUP") {
			return fmt.Errorf("stream %s: %w", r.cfg.Prefix+topic, err)
		}
	}
	r.grouped = true
	return nil
}

// start is the entry behind which a new group begins. With Newest that is the one which was the newest when this process began, also if the group
// is made for the second time: what was added since its stream was deleted is new. A stream that is made anew may count from below.
func (r *reader) start(ctx context.Context, topic string) (string, error) {
	const oldest = "0-0"
	if !r.cfg.Newest {
		return oldest, nil
	}
	newest := oldest
	info, err := r.client.XInfoStream(ctx, r.cfg.Prefix+topic).Result()
	switch {
	case err == nil:
		newest = info.LastGeneratedID
	case !strings.Contains(err.Error(), "no such key"):
		return "", err
	}
	known, again := r.starts[topic]
	switch {
	case !again:
		known = newest
		r.starts[topic] = known
	case older(newest, known):
		known = oldest
	}
	return known, nil
}

// older compares ids of entries: milliseconds and a number.
func older(a, b string) bool {
	var at, an, bt, bn uint64
	_, _ = fmt.Sscanf(a, "%d-%d", &at, &an)
	_, _ = fmt.Sscanf(b, "%d-%d", &bt, &bn)
	return at < bt || at == bt && an < bn
}

// fresh reads entries that no consumer of the group was given yet.
func (r *reader) fresh(ctx context.Context, maximum int) ([]inbox.Delivery, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	args := &redis.XReadGroupArgs{Group: r.cfg.Group, Consumer: r.cfg.Consumer, Count: int64(maximum), Block: r.cfg.Block}
	for _, topic := range r.cfg.Topics {
		args.Streams = append(args.Streams, r.cfg.Prefix+topic)
	}
	for range r.cfg.Topics {
		args.Streams = append(args.Streams, ">")
	}
	// The end of ctx must not cut it off: the answer would be lost.
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.cfg.Block+r.cfg.Timeout)
	defer cancel()
	streams, err := r.client.XReadGroup(bounded, args).Result()
	switch {
	case errors.Is(err, redis.Nil):
		return nil, nil
	case isNoGroup(err):
		r.grouped = false // the stream was deleted, or the server has forgotten
		return nil, err
	case err != nil:
		r.connected.Store(true)
		return nil, err
	case r.connected.Load():
		// It was asked over a new connection, and older entries may have got lost with the one before. All of them are this consumer's
		// now, and the next read finds them in their order.
		return nil, nil
	}
	var deliveries []inbox.Delivery
	for _, s := range streams {
		for _, m := range s.Messages {
			deliveries = append(deliveries, r.delivery(s.Stream, m, 0))
		}
	}
	return deliveries, nil
}

// take claims the pending entries that were asked for. next is where to go on; "": there is no more.
func (r *reader) take(ctx context.Context, topic string, which *redis.XPendingExtArgs) (deliveries []inbox.Delivery, next string, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.cfg.Timeout)
	defer cancel()
	stream := r.cfg.Prefix + topic
	which.Stream, which.Group = stream, r.cfg.Group
	pending, err := r.client.XPendingExt(ctx, which).Result()
	if isNoGroup(err) {
		r.grouped = false
	}
	if err != nil || len(pending) == 0 {
		return nil, "", err
	}
	counts := map[string]int64{}
	claim := &redis.XClaimArgs{Stream: stream, Group: r.cfg.Group, Consumer: r.cfg.Consumer, MinIdle: which.Idle}
	for _, p := range pending {
		counts[p.ID] = p.RetryCount
		claim.Messages = append(claim.Messages, p.ID)
	}
	messages, err := r.client.XClaim(ctx, claim).Result()
	if err != nil {
		return nil, "", err
	}
	if missing := len(pending) - len(messages); missing > 0 {
		r.cfg.Logger.WarnContext(ctx, "redissub: entries were taken by another consumer, or deleted before they were acked", "stream", stream, "entries", missing)
	}
	for _, m := range messages {
		deliveries = append(deliveries, r.delivery(stream, m, int(counts[m.ID])))
	}
	return deliveries, "(" + pending[len(pending)-1].ID, nil
}

func (r *reader) delivery(stream string, m redis.XMessage, before int) inbox.Delivery {
	headers := make(map[string]string, len(m.Values))
	for name, value := range m.Values {
		headers[name] = fmt.Sprint(value)
	}
	body := headers[cloudevents.DataField]
	delete(headers, cloudevents.DataField)
	message, err := inbox.Decode(strings.TrimPrefix(stream, r.cfg.Prefix), stream+"/"+m.ID, headers, []byte(body))
	return inbox.Delivery{Message: message, Err: err, Redelivered: before, Revoked: r.held.add(stream, m.ID), Tag: tag{stream, m.ID}}
}
