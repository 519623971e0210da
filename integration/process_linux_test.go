package integration

import "syscall"

// endWithParent makes the kernel kill a process with the test, even one that is stopped.
func endWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
