// Package redispub publishes events to Redis Streams.
//
// An event goes to the stream that is named as its topic, as one entry: a field an attribute or header, named as Kafka's headers
// are (ce_id, ce_type, ...), and the payload in the field data. Streams are created as they are written to.
//
// # Promises
//
// An event is acknowledged when Redis has added it. How durable that is, is Redis's configuration: with appendfsync everysec a
// crash of the server forgets a second of acknowledged events, without appendonly all of them; Config.Replicas waits for
// replicas, which makes a loss less likely and does not exclude it. What must not be lost goes to Kafka or RabbitMQ.
//
// Of a key, nothing is added after an event that was refused: a lot is added by a script, which runs whole and alone on the server
// and passes over the events of a key after the first that fails.
//
// An event is rejected if the stream's name is that of something else, if the user may not write it, or if it is too large. All
// other errors blame the server, memory that is full among them.
//
// # Settings, and why they are so
//
//   - Nothing is trimmed unless MaxLen says so: a limit throws away what no consumer has read yet.
//   - One attempt: go-redis's own retries are off. The caller sends again from the first unacknowledged event on.
//   - A script, and no pipeline of XADDs: in a pipeline the second of two events succeeds after the first was refused. One script
//     call writes one stream, as Redis Cluster demands.
package redispub
