// Package cloudevents writes events as CloudEvents 1.0 and reads them: pure functions between an [Event] and
// the headers and body that a broker carries. docs/messages.md says what a consumer has to know.
//
//	Encode   Event -> headers and body    binary: an attribute a header, the payload as it is
//	                                      structured: all of it one JSON document
//	Decode   headers and body -> Event    both of these, the envelope of sagaz, and plain messages
//
// The project's own few functions, as the official SDK would bring a second message model and a logger for what is
// a mapping of names.
package cloudevents
