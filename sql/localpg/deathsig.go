//go:build linux || freebsd

package localpg

import "syscall"

// endWithParent makes the kernel stop the server at once (SIGQUIT) when the thread that started it is gone.
func endWithParent(attributes *syscall.SysProcAttr) { attributes.Pdeathsig = syscall.SIGQUIT }

// endsWithParent reports whether endWithParent does anything.
const endsWithParent = true
