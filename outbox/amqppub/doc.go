// Package amqppub publishes events to RabbitMQ, by AMQP 0-9-1.
//
// An event's topic is the exchange, its routing key the message's (Config.Route changes both). Its attributes are headers
// (cloudEvents_id, cloudEvents_type, ...), and the message's own properties say the same where they can: message id, type, content
// type, timestamp.
//
// # Promises
//
// An event is acknowledged when RabbitMQ has confirmed it: it is then in all queues that it was routed to, on disk where they
// are durable; make them quorum queues. An event that no queue takes is rejected, unless Config.Unroutable says that this is in order:
// RabbitMQ confirms it as well, right after it has returned it, and the confirmation alone would be a silent loss.
//
// Of a key one event is under way at a time, since RabbitMQ may refuse one message of a channel (a full queue, a missing
// binding) and take the next. Different keys go at once. So the rate of one key is that of the round trip.
//
// An event is rejected if it is larger than the broker takes, if its exchange is not there (Topology [Check]) or is not what
// it should be, if it may not be written to, or if no queue takes the event. All other errors blame the way.
//
// # Settings, and why they are so
//
//   - Mandatory, and a return is matched to its event by the message id before the confirmation is looked at.
//   - Messages are persistent. Exchanges that are declared are durable.
//   - Room for as many returns as messages are under way: with less the client's reader and its caller wait for each other.
//   - A channel that RabbitMQ closes takes the answers of all its messages along. Who was to blame is then found by sending them
//     again one by one.
//   - One connection, made again when it is next needed; a call has a channel to itself. At the end of a call's context a
//     connection that does not take bytes any more, as under a memory alarm, is cut: there is no other way to return.
package amqppub
