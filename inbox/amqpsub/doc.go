// Package amqpsub is a source of messages for package inbox: a consumer of a RabbitMQ queue.
//
// # Promises
//
// A message is delivered at least once: RabbitMQ keeps it until it is acked, after the consumer's commit, and gives it to
// somebody when the connection is lost. What was fetched over a lost connection is revoked, and an ack of it is passed over.
//
// Messages come in the order of the queue. Several consumers share a queue message by message, and a message that comes again comes
// behind others: the order of a key holds for a queue with one consumer at a time, and Config.SingleActive makes RabbitMQ see
// to that.
//
// A message without a CloudEvent in it counts by its message id (or by what Config.ID says). One without an id cannot be told from
// another one like it; it is given to the consumer as one of which no message can be made.
//
// # Settings, and why they are so
//
//   - Manual acks, each for itself, and a prefetch: that is the back-pressure.
//   - Release does nothing: Close gives all back at once, in its order.
//   - The queue that is declared is a durable quorum queue. Package inbox counts attempts itself, and has its own dead letters. So
//     the queue has no delivery limit: RabbitMQ 4 would otherwise drop a message at its twentieth redelivery, which a
//     few deployments and crashes amount to. With a limit there has to be an exchange for dead letters.
//   - Redelivered is the quorum queue's count; of other queues only whether there was a delivery before.
package amqpsub
