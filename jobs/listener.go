package jobs

import (
	"context"
	"encoding/json"

	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
)

// deaf is River's driver, whose clients hear of new jobs and of nothing else. NOTIFY needs no right: on River's other channels any role that
// may connect could pause every queue, cancel jobs and depose leaders. What is to be heard there River looks for too, once a minute.
type deaf struct{ *riverpgxv5.Driver }

// GetListener is riverdriver.Driver's.
func (d deaf) GetListener(params *riverdriver.GetListenenerParams) riverdriver.Listener {
	return insertsOnly{d.Driver.GetListener(params)}
}

type insertsOnly struct{ riverdriver.Listener }

const inserts = "river_insert"

// Listen is riverdriver.Listener's.
func (l insertsOnly) Listen(ctx context.Context, topic string) error {
	if topic != inserts {
		return nil
	}
	return l.Listener.Listen(ctx, topic)
}

// Unlisten is riverdriver.Listener's.
func (l insertsOnly) Unlisten(ctx context.Context, topic string) error {
	if topic != inserts {
		return nil
	}
	return l.Listener.Unlisten(ctx, topic)
}

// WaitForNotification is riverdriver.Listener's. River reports what it cannot read as an error, each time.
func (l insertsOnly) WaitForNotification(ctx context.Context) (*riverdriver.Notification, error) {
	for {
		n, err := l.Listener.WaitForNotification(ctx)
		if err != nil || json.Valid([]byte(n.Payload)) {
			return n, err
		}
	}
}
