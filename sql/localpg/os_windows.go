package localpg

import (
	"context"
	"errors"
	"os"
	"syscall"
)

// Windows is not supported: serverAccount is the first thing Start asks, so that none of the others is called.
var errWindows = errors.New("a local Postgres cannot be started on Windows: give the address of a running one")

const endsWithParent = false

type account struct{}

func serverAccount() (*account, error)                 { return nil, errWindows }
func (*account) give(string) error                     { return errWindows }
func (*account) canEnter(string) error                 { return errWindows }
func (*account) attributes() *syscall.SysProcAttr      { return nil }
func (*postmaster) signal(shutdown) error              { return errWindows }
func isOwn(string) bool                                { return false }
func tryLock(*os.File) error                           { return errWindows }
func lockWait(context.Context, string) (func(), error) { return nil, errWindows }
func defaultCache() (string, error)                    { return "", errWindows }
