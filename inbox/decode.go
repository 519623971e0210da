package inbox

import (
	"maps"

	"github.com/pgsagaz/pgsagaz/cloudevents"
)

// Decode makes a message of what a broker delivered: of a CloudEvent (binary or structured), of sagaz's envelope, or
// of anything else, which then has neither type nor key. Attributes of a CloudEvent that have no field are headers,
// as ce_sagaid.
//
// place tells where the message lay, and is the id of one that has none: [Message].ID says what that is worth.
//
// An error says why what came is no message. The message then holds what there is.
func Decode(topic, place string, headers map[string]string, body []byte) (Message, error) {
	e, mode, err := cloudevents.Decode(headers, body)
	m := Message{ID: e.ID, Source: e.Source, Attempt: e.Headers[AttemptHeader], Topic: topic, Key: e.Extensions["partitionkey"], Type: e.Type,
		Payload: e.Data, Headers: maps.Clone(e.Headers), TraceParent: e.Extensions["traceparent"], Time: e.Time}
	if m.Headers == nil {
		m.Headers = map[string]string{}
	}
	if m.TraceParent == "" {
		m.TraceParent = m.Headers["traceparent"]
	}
	for name, value := range e.Extensions {
		m.Headers[cloudevents.KafkaPrefix+name] = value
	}
	if e.Subject != "" {
		m.Headers[cloudevents.KafkaPrefix+"subject"] = e.Subject
	}
	switch mode {
	case cloudevents.Sagaz:
		m.Source = string(mode)
	case cloudevents.Plain:
		m.ID, m.Source = place, "place"
	}
	if err != nil {
		m.ID, m.Source = place, "place"
		return m, err
	}
	return m, nil
}
