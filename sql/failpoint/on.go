//go:build failpoint

// Package failpoint names the places where a process may die. In an ordinary build a point is nothing at
// all. With the build tag failpoint a test arms one, and [Hit] runs what it was armed with: usually
// SIGKILL to itself.
package failpoint

import "sync"

var (
	mu    sync.Mutex
	armed = map[string]func(){}
	hits  = map[string]int{}
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
