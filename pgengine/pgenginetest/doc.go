// Package pgenginetest helps to test sagas: a step on its own, with no engine and no database, or a saga
// from its start to its end.
//
//	ship := pgenginetest.Step[pgengine.Activity[Order, Parcel]](t, saga, "ship")
//	parcel, err := ship.Do(ctx, pgenginetest.Call(order, pgenginetest.Given("reserve", reservation)))
//
//	status := pgenginetest.Run(t, engine, order)
//	if status.State != pgengine.Compensated { ... }
package pgenginetest
