// Package demo is a shop that sells by saga: an order reserves stock, charges a card at a payment service
// of its own that fails in all the ways such services fail, ships a parcel and sends a mail. Some orders
// cannot succeed and are compensated. In the end every account is audited.
//
//	saga.go     the saga, to read first
//	shop.go     what it does in Postgres: stock, payments, parcels
//	bank.go     the payment service, an http server of its own books, and bankclient.go, how it is called
//	run.go      one run: tables, workers, orders, the wait for their end, the report
//	fleet.go    the workers, in this process or, to be killed, in processes of their own
//	killer.go   kill -9, and who took over
//	audit.go    whether everything adds up
//
// A run only looks at what is its own: every row and every saga's tag carries the run's id.
package demo
