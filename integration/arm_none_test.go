//go:build unix && !failpoint

package integration

func arm(string, int) { panic("this binary has no failpoints: build it with -tags failpoint") }
