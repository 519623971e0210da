//go:build unix && !linux

package integration

import "syscall"

// endWithParent does nothing here: a worker notices the end of its standard input, unless it is stopped.
func endWithParent() *syscall.SysProcAttr { return nil }
