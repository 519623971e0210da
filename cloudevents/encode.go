package cloudevents

import (
	"bytes"
	"encoding/json"
	"mime"
	"strings"
	"unicode/utf8"
)

// EncodeBinary writes an attribute a header, with prefix before its name, and the payload as it is.
func (e Event) EncodeBinary(prefix string) (headers map[string]string, body []byte) {
	headers = map[string]string{}
	for name, value := range e.attributes() {
		if name == "datacontenttype" {
			headers[ContentType] = value // the bindings have this one attribute in the transport's own place
			continue
		}
		headers[prefix+name] = value
	}
	e.addHeaders(headers)
	return headers, e.Data
}

// EncodeStructured writes the event as one JSON document. A payload of JSON is a part of it, without its insignificant
// white space; any other is in base64.
func (e Event) EncodeStructured() (headers map[string]string, body []byte) {
	document := map[string]any{}
	for name, value := range e.attributes() {
		document[name] = value
	}
	switch {
	case len(e.Data) == 0:
	case isJSON(e.DataContentType) && json.Valid(e.Data) && utf8.Valid(e.Data):
		document["data"] = json.RawMessage(e.Data)
	default:
		document["data_base64"] = e.Data
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false) // the payload is to arrive as it was written
	if err := encoder.Encode(document); err != nil {
		panic("cloudevents: strings and valid JSON do not marshal: " + err.Error()) // cannot be
	}
	headers = map[string]string{ContentType: StructuredType}
	e.addHeaders(headers)
	return headers, bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// isJSON says whether data of that type is JSON. None given means JSON in a JSON document.
func isJSON(contentType string) bool {
	if contentType == "" {
		return true
	}
	mediaType, _, err := mime.ParseMediaType(contentType)
	return err == nil && (strings.HasSuffix(mediaType, "/json") || strings.HasSuffix(mediaType, "+json"))
}
