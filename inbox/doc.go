// Package inbox gives messages that arrive at least once an effect that happens exactly once.
package inbox
