package pgenginetest

import (
	"reflect"
	"strings"
	"testing"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

// Step finds a step of a definition, with its type, so that the test can call its functions. Only S is
// to be written; the input type follows from it:
//
//	pgenginetest.Step[pgengine.Activity[Order, Parcel]](t, saga, "ship")
//
// The test ends if there is no such step, or it is of another type.
func Step[S pgengine.Step[I], I pgengine.Input](t testing.TB, d pgengine.Definition, name string) S {
	t.Helper()
	var none S
	saga, ok := d.(pgengine.Saga[I])
	if !ok {
		t.Fatalf("pgenginetest: the definition is a %T, and %T is a step of a %T", d, none, saga)
	}
	var names []string
	for _, step := range saga.Steps {
		if step == nil {
			continue
		}
		n := nameOf(step)
		names = append(names, n)
		if n != name {
			continue
		}
		found, ok := step.(S)
		if !ok {
			t.Fatalf("pgenginetest: step %q is a %T, not a %T", name, step, none)
		}
		return found
	}
	t.Fatalf("pgenginetest: there is no step %q; there are: %s", name, strings.Join(names, ", "))
	return none
}

// nameOf reads the field Name, which all kinds of steps have. Their types are too many to list: each has
// a result type of its own.
func nameOf(step any) string { return reflect.ValueOf(step).FieldByName("Name").String() }
