//go:build !linux || !amd64

package integration

import (
	"errors"
	"time"
)

func setWallClock(time.Duration) error {
	return errors.New("the clock of a process can be set on Linux on amd64 alone")
}
