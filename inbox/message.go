package inbox

import "time"

// Message is an event as it came from a broker, or from a webhook.
type Message struct {
	// ID is the event's, given by whoever made it: the same in every delivery. A UUIDv7 is unique by itself;
	// any other id counts together with Source. A source of messages whose broker has none makes one of the
	// message's place (topic, partition and offset, say), which finds redeliveries but no second sending.
	ID string
	// Source says whose ids these are: a CloudEvent's source. It may be "".
	Source string
	// Attempt tells a processing that was asked for again on purpose from the first: each attempt id takes
	// effect once. "": the event itself. Sources read it from the header [AttemptHeader].
	Attempt string

	Topic       string
	Key         string // messages of one key are handled in their order; "": no order
	Type        string // what happened, say orders.shipped; "": not known
	Payload     []byte
	Headers     map[string]string // names in lower case
	TraceParent string            // the W3C trace context of the writer
	Time        time.Time         // when it was sent, as the broker or the event says; zero: not known
}

// AttemptHeader is the header that carries [Message.Attempt].
const AttemptHeader = "pgsagaz-attempt"

// size is about what the message takes of memory.
func (m *Message) size() int {
	n := 512 + len(m.ID) + len(m.Key) + len(m.Payload)
	for k, v := range m.Headers {
		n += 32 + len(k) + len(v)
	}
	return n
}
