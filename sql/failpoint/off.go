//go:build !failpoint

// Package failpoint names the places where a process may die, and those where a bug can be planted. In an ordinary build
// they are nothing at all. With the build tag failpoint a test arms a point, and [Hit] runs what it was armed with: usually
// SIGKILL to itself. Or it plants a bug, to see whether the tests would find it.
package failpoint

// Hit marks a place.
func Hit(string) {}

// Mutant says whether the bug of that name is planted: never. The compiler drops what depends on it.
func Mutant(string) bool { return false }
