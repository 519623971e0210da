package amqpsub

import "testing"

// RabbitMQ 4 limits deliveries unless it is told -1, which RabbitMQ 3 takes for an error.
func TestLimitless(t *testing.T) {
	for version, want := range map[string]bool{"3.10.8": true, "3.13.0": true, "4.0.1": false, "10.0": false, "unknown": false} {
		if got := limitless(version); got != want {
			t.Errorf("%s: %v", version, got)
		}
	}
}
