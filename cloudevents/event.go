package cloudevents

import (
	"maps"
	"strings"
	"time"
)

// SpecVersion is the version of CloudEvents that is written. Any 1.x is read.
const SpecVersion = "1.0"

// Prefixes of the headers that carry attributes in binary mode, as the bindings of CloudEvents name them. Redis has no
// binding, and takes Kafka's. Decode reads all of them.
const (
	KafkaPrefix = "ce_"
	AMQPPrefix  = "cloudEvents_"
)

// ContentType is the header that says what the body is.
const ContentType = "content-type"

// DataField is the field of a Redis stream's entry that holds the body; its other fields are the headers.
const DataField = "data"

// StructuredType is the content type of structured mode.
const StructuredType = "application/cloudevents+json"

// Event is a CloudEvent.
type Event struct {
	ID     string
	Source string // whose ids these are
	Type   string
	// Subject, Time, DataContentType and DataSchema may be left empty.
	Subject         string
	Time            time.Time
	DataContentType string
	DataSchema      string
	// Extensions are further attributes; their names are of a-z and 0-9.
	Extensions map[string]string
	// Headers travel beside the attributes, in both modes. Decode makes their names lower case. One that is named
	// like an attribute's header does not travel: nobody can forge an id with it.
	Headers map[string]string
	Data    []byte
}

// Mode says how an event was written.
type Mode string

// The modes that Decode tells apart.
const (
	Binary     Mode = "binary"
	Structured Mode = "structured"
	Sagaz      Mode = "sagaz" // the envelope of the Python library of that name
	Plain      Mode = "plain" // none of these: the event has a payload and headers, but neither id nor type
)

// attributes are all of the event's that are not its data, by their names.
func (e Event) attributes() map[string]string {
	a := map[string]string{}
	for name, value := range e.Extensions {
		if validName(name) {
			a[name] = value
		}
	}
	maps.Copy(a, map[string]string{"specversion": SpecVersion, "id": e.ID, "source": e.Source, "type": e.Type})
	for name, value := range map[string]string{"subject": e.Subject, "datacontenttype": e.DataContentType, "dataschema": e.DataSchema} {
		if delete(a, name); value != "" {
			a[name] = value
		}
	}
	if delete(a, "time"); !e.Time.IsZero() {
		a["time"] = e.Time.UTC().Format(time.RFC3339Nano)
	}
	return a
}

// validName says whether an attribute may be named so. data and data_base64 are members of the JSON document.
func validName(name string) bool {
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return name != "" && name != "data"
}

// addHeaders adds the headers that neither are there already nor carry, in any binding, one of the event's attributes.
func (e Event) addHeaders(to map[string]string) {
	taken := map[string]bool{ContentType: true}
	for attribute := range e.attributes() {
		for _, prefix := range prefixes {
			taken[prefix+attribute] = true
		}
	}
	for name, value := range e.Headers {
		if !taken[strings.ToLower(name)] {
			to[name] = value
		}
	}
}
