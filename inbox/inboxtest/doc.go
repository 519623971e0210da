// Package inboxtest tests sources of messages: [TestSource] holds an adapter to the contract of
// [inbox.Source], against the real broker.
package inboxtest
