package jobs

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/sql"
)

// archivist moves sagas that have ended out of the way of those that live, and lets go of what is old. Of all the
// workers one does it at a time: a batch takes a lock, and who does not get it leaves it at that.
type archivist struct {
	pool *pgxpool.Pool
	log  *slog.Logger

	after, keep, keys time.Duration // keep, keys 0: for ever
}

const (
	archiveBatch = 100                   // sagas in one short transaction
	archivePause = time.Minute           // between rounds
	archiveRest  = 20 * time.Millisecond // between batches, at least, so that it never has the server to itself
	archiveShare = 4                     // and that many times as long as a batch has taken
)

// run archives until ctx ends.
func (a *archivist) run(ctx context.Context) error {
	every := max(min(archivePause, a.after), 2*time.Millisecond)
	for pause(ctx, every/2+rand.N(every/2)) {
		if err := a.round(ctx); err != nil && ctx.Err() == nil {
			a.log.WarnContext(ctx, "sagas that have ended could not be archived; the next round tries again", "error", err)
		}
	}
	return nil
}

// round archives all that is due.
func (a *archivist) round(ctx context.Context) error {
	total := 0
	for {
		var moved *int // nil: another worker is at it
		begun := time.Now()
		if err := a.pool.QueryRow(ctx, sql.ArchiveBatch, a.after.Seconds(), archiveBatch).Scan(&moved); err != nil {
			return err
		}
		if moved == nil || *moved == 0 {
			break
		}
		total += *moved
		if !pause(ctx, max(archiveRest, archiveShare*time.Since(begun))) {
			return nil
		}
	}
	if total > 0 {
		a.log.InfoContext(ctx, "archived sagas that have ended", "sagas", total)
	}
	var dropped []string
	if err := a.pool.QueryRow(ctx, sql.ArchiveRetain, seconds(a.keep), seconds(a.keys)).Scan(&dropped); err != nil {
		return err
	}
	if len(dropped) > 0 {
		a.log.InfoContext(ctx, "dropped old days of the archive", "partitions", dropped)
	}
	return nil
}

// seconds as Postgres is told; nil: for ever.
func seconds(d time.Duration) *float64 {
	if d <= 0 {
		return nil
	}
	s := d.Seconds()
	return &s
}

// pause waits for d; false: ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
