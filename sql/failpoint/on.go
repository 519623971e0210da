//go:build failpoint

// Package failpoint names the places where a process may die, and those where a bug can be planted. In an ordinary build
// they are nothing at all. With the build tag failpoint a test arms a point, and [Hit] runs what it was armed with: usually
// SIGKILL to itself. Or it plants a bug, to see whether the tests would find it.
package failpoint

import "sync"

var (
	mu    sync.Mutex
	armed = map[string]func(){}
	hits  = map[string]int{}

	planted string // written before the first test runs, and never again
)

// Hit marks a place.
func Hit(name string) {
	mu.Lock()
	hits[name]++
	f := armed[name]
	mu.Unlock()
	if f != nil {
		f()
	}
}

// Arm makes the point called name run f each time it is hit; nil disarms it.
func Arm(name string, f func()) {
	mu.Lock()
	defer mu.Unlock()
	armed[name] = f
}

// Hits is how often the point was hit so far.
func Hits(name string) int {
	mu.Lock()
	defer mu.Unlock()
	return hits[name]
}

// Plant makes the bug of that name one. It is called before anything else happens in the process.
func Plant(name string) { planted = name }

// Mutant says whether the bug of that name is planted.
func Mutant(name string) bool { return planted == name }
