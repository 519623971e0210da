package outbox

import (
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/pgsagaz/pgsagaz/cloudevents"
)

// Format is how events are written for a broker: as CloudEvents 1.0. docs/messages.md describes it.
type Format struct {
	// Source says whose events these are: a URI or a part of one. It and the id together tell events apart. "": pgsagaz.
	Source string
	// Structured writes an event as one JSON document. false: binary mode, an attribute a header and the
	// payload as it is.
	Structured bool
}

// traceParent is the name of the W3C trace context, as a header and as an extension of CloudEvents.
const traceParent = "traceparent"

// Encode makes the headers and the body of a broker's message. prefix is what headers of attributes begin with.
func (f Format) Encode(e Event, prefix string) (headers map[string]string, body []byte) {
	ce := f.cloudEvent(e)
	if f.Structured {
		return ce.EncodeStructured()
	}
	return ce.EncodeBinary(prefix)
}

func (f Format) cloudEvent(e Event) cloudevents.Event {
	ce := cloudevents.Event{ID: e.ID.String(), Source: f.Source, Type: e.Type, Subject: e.Key, Time: e.CreatedAt,
		Headers: maps.Clone(e.Headers), Data: e.Payload}
	if ce.Source == "" {
		ce.Source = "pgsagaz"
	}
	for name, value := range e.Headers {
		if strings.EqualFold(name, cloudevents.ContentType) {
			ce.DataContentType = value
		}
	}
	ce.Extensions = map[string]string{}
	for name, value := range map[string]string{"partitionkey": e.Key, traceParent: e.TraceParent, "sagaid": e.SagaID, "sagastep": e.Step} {
		if value != "" {
			ce.Extensions[name] = value
		}
	}
	if e.Sequence > 0 {
		ce.Extensions["sequence"] = fmt.Sprintf("%019d", e.Sequence) // compared as text, says CloudEvents
	}
	if e.Replayed {
		ce.Extensions["replayed"] = "true"
	}
	if e.TraceParent != "" {
		for name := range e.Headers {
			if strings.EqualFold(name, traceParent) {
				delete(ce.Headers, name)
			}
		}
		if ce.Headers == nil {
			ce.Headers = map[string]string{}
		}
		ce.Headers[traceParent] = e.TraceParent // where instrumented consumers look for it
	}
	return ce
}

// Decode is the way back, for tools and tests. Topic and RoutingKey do not travel in the message: the caller knows them.
// Consumers have package inbox.
func Decode(headers map[string]string, body []byte) (Event, error) {
	ce, mode, err := cloudevents.Decode(headers, body)
	if err != nil {
		return Event{}, err
	}
	if mode != cloudevents.Binary && mode != cloudevents.Structured {
		return Event{}, fmt.Errorf("outbox: the message is no CloudEvent")
	}
	e := Event{Key: ce.Extensions["partitionkey"], Type: ce.Type, Payload: ce.Data, Headers: ce.Headers, CreatedAt: ce.Time,
		TraceParent: ce.Extensions[traceParent], SagaID: ce.Extensions["sagaid"], Step: ce.Extensions["sagastep"],
		Replayed: ce.Extensions["replayed"] == "true"}
	if e.TraceParent != "" {
		delete(e.Headers, traceParent)
	}
	if e.ID, err = uuid.Parse(ce.ID); err != nil {
		return Event{}, fmt.Errorf("outbox: id %q: %w", ce.ID, err)
	}
	if s := ce.Extensions["sequence"]; s != "" {
		if e.Sequence, err = strconv.ParseInt(s, 10, 64); err != nil {
			return Event{}, fmt.Errorf("outbox: sequence %q: %w", s, err)
		}
	}
	return e, nil
}
