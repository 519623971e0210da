//go:build unix && failpoint

package integration

import (
	"os"
	"sync/atomic"
	"syscall"

	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

// arm makes this process kill itself at the given hit of a failpoint.
func arm(point string, hit int) {
	var hits atomic.Int64
	failpoint.Arm(point, func() {
		if hits.Add(1) == int64(hit) {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // whoever is here goes not one statement further
		}
	})
}
