package cloudevents

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"strings"
	"time"
)

// Decode reads what a broker delivered. An error says what is wrong with a message that claims to be an event; a
// message that makes no such claim is [Plain], and in order.
func Decode(headers map[string]string, body []byte) (Event, Mode, error) {
	lower := make(map[string]string, len(headers))
	for name, value := range headers {
		lower[strings.ToLower(name)] = value
	}
	if mediaType, _, err := mime.ParseMediaType(lower[ContentType]); err == nil && strings.HasPrefix(mediaType, "application/cloudevents") {
		if mediaType != StructuredType {
			return Event{Headers: lower, Data: body}, Structured, fmt.Errorf("cloudevents: events of type %s cannot be read, only %s", mediaType, StructuredType)
		}
		e, err := decodeStructured(lower, body)
		return e, Structured, err
	}
	for name := range lower {
		if attribute, ok := attributeOf(name); ok && attribute == "specversion" {
			e, err := decodeBinary(lower, body)
			return e, Binary, err
		}
	}
	if e, ok := decodeSagaz(lower, body); ok {
		return e, Sagaz, nil
	}
	return Event{DataContentType: lower[ContentType], Headers: lower, Data: body}, Plain, nil
}

// prefixes are those of the bindings: Kafka's, the two of AMQP, HTTP's.
var prefixes = []string{"ce_", "cloudevents_", "cloudevents:", "ce-"}

// attributeOf is the name of the attribute that a header carries, whatever binding wrote it. name is in lower case.
func attributeOf(name string) (string, bool) {
	for _, prefix := range prefixes {
		if attribute, ok := strings.CutPrefix(name, prefix); ok && validName(attribute) {
			return attribute, true
		}
	}
	return "", false
}

func decodeBinary(headers map[string]string, body []byte) (Event, error) {
	attributes, rest := map[string]string{}, map[string]string{}
	for name, value := range headers {
		if attribute, ok := attributeOf(name); ok {
			attributes[attribute] = value
		} else {
			rest[name] = value
		}
	}
	if contentType := headers[ContentType]; contentType != "" {
		attributes["datacontenttype"] = contentType
	}
	return assemble(attributes, rest, body)
}

func decodeStructured(headers map[string]string, body []byte) (Event, error) {
	malformed := func(err error) (Event, error) {
		return Event{Headers: headers, Data: body}, fmt.Errorf("cloudevents: the structured event is malformed: %w", err)
	}
	var document map[string]json.RawMessage
	if err := json.Unmarshal(body, &document); err != nil {
		return malformed(err)
	}
	attributes := map[string]string{}
	for name, raw := range document {
		if name == "data" || name == "data_base64" || string(raw) == "null" {
			continue
		}
		if !validName(name) {
			return malformed(fmt.Errorf("attribute %q is named otherwise than with a-z and 0-9", name))
		}
		attributes[name] = text(raw)
	}
	rest := map[string]string{}
	for name, value := range headers {
		if _, ok := attributeOf(name); !ok {
			rest[name] = value
		}
	}
	delete(rest, ContentType) // it is the document's
	if contentType := attributes["datacontenttype"]; contentType != "" {
		rest[ContentType] = contentType
	}
	data, err := documentData(document, attributes["datacontenttype"])
	if err != nil {
		return malformed(err)
	}
	e, err := assemble(attributes, rest, data)
	if err != nil {
		e.Headers, e.Data = headers, body
	}
	return e, err
}

// documentData is the payload of a structured event.
func documentData(document map[string]json.RawMessage, contentType string) ([]byte, error) {
	data, encoded := document["data"], document["data_base64"]
	if encoded != nil && string(encoded) != "null" {
		if data != nil {
			return nil, errors.New("it has both data and data_base64")
		}
		var b []byte
		if err := json.Unmarshal(encoded, &b); err != nil {
			return nil, fmt.Errorf("data_base64: %w", err)
		}
		return b, nil
	}
	if data == nil {
		return []byte{}, nil
	}
	if !isJSON(contentType) && data[0] == '"' {
		return []byte(text(data)), nil // text that is not JSON stands there as a string
	}
	return data, nil
}

// text is a JSON value as an attribute: a string without its quotes, anything else as it stands.
func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	return string(raw)
}

func assemble(attributes, headers map[string]string, data []byte) (Event, error) {
	e := Event{Headers: headers, Data: data}
	take := func(name string) string {
		value := attributes[name]
		delete(attributes, name)
		return value
	}
	version := take("specversion")
	e.ID, e.Source, e.Type, e.Subject = take("id"), take("source"), take("type"), take("subject")
	e.DataContentType, e.DataSchema = take("datacontenttype"), take("dataschema")
	when := take("time")
	e.Extensions = attributes
	if !strings.HasPrefix(version, "1.") {
		return e, fmt.Errorf("cloudevents: specversion %q cannot be read, only 1.x", version)
	}
	for _, required := range []struct{ name, value string }{{"id", e.ID}, {"source", e.Source}, {"type", e.Type}} {
		if required.value == "" {
			return e, fmt.Errorf("cloudevents: the event has no %s", required.name)
		}
	}
	if when != "" {
		t, err := time.Parse(time.RFC3339Nano, when)
		if err != nil {
			return e, fmt.Errorf("cloudevents: time %q is not of the form 2006-01-02T15:04:05Z", when)
		}
		e.Time = t
	}
	return e, nil
}
