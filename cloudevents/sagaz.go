package cloudevents

import (
	"bytes"
	"encoding/json"
	"time"
)

// sagazEnvelope is the body that sagaz's outbox worker writes.
type sagazEnvelope struct {
	EventID       string          `json:"event_id"`
	SagaID        string          `json:"saga_id"`
	AggregateType string          `json:"aggregate_type"`
	AggregateID   string          `json:"aggregate_id"`
	EventType     string          `json:"event_type"`
	Payload       json.RawMessage `json:"payload"`
	Timestamp     string          `json:"timestamp"`
}

// decodeSagaz reads the envelope of sagaz. Its headers (event_id, saga_id, event_type) are not asked: users could overwrite
// them. A message with them and another body is not its worker's.
func decodeSagaz(headers map[string]string, body []byte) (Event, bool) {
	if !bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("{")) || !bytes.Contains(body, []byte(`"event_id"`)) {
		return Event{}, false // without the cost of parsing
	}
	var s sagazEnvelope
	if json.Unmarshal(body, &s) != nil || s.EventID == "" || s.EventType == "" || s.Payload == nil {
		return Event{}, false
	}
	e := Event{ID: s.EventID, Type: s.EventType, Subject: s.AggregateID, Time: sagazTime(s.Timestamp),
		DataContentType: "application/json", Headers: headers, Data: s.Payload, Extensions: map[string]string{}}
	for name, value := range map[string]string{"partitionkey": s.AggregateID, "sagaid": s.SagaID, "aggregatetype": s.AggregateType} {
		if value != "" {
			e.Extensions[name] = value
		}
	}
	return e, true
}

// sagazTime reads Python's isoformat, which may leave the zone out and then means UTC. Zero: not to be read.
func sagazTime(s string) time.Time {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t
		}
	}
	return time.Time{}
}
