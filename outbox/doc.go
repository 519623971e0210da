// Package outbox writes messages for a broker into Postgres, in the transaction they tell of: they leave
// if it commits, and only then.
//
//	Publish        your tx: a row of pgsagaz.outbox a message
//	 │ commit      the messages exist
//
// A message's order is that of its id among messages of its key whose writers were serialised, by
// causality or by a lock taken before Publish.
package outbox
