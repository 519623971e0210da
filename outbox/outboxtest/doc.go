// Package outboxtest tests publishers, and programs that publish.
//
//   - [TestPublisher] holds an adapter to a broker to the contract of [outbox.Publisher], against the real broker.
//   - [Faulty] makes any publisher fail in the ways in which brokers do.
package outboxtest
