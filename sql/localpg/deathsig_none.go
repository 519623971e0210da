//go:build unix && !linux && !freebsd

package localpg

import "syscall"

// endWithParent does nothing: this system does not tell a process that its parent is gone. See removeAbandoned.
func endWithParent(*syscall.SysProcAttr) {}

// endsWithParent reports whether endWithParent does anything.
const endsWithParent = false
