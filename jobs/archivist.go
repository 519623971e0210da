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
	archiveBatch = 20                    // sagas in one short transaction: some milliseconds of one core
	archivePause = time.Minute           // between rounds
	archiveRest  = 20 * time.Millisecond // between batches, at least, so that it never has the server to itself
)

// rest is how long to leave the server alone after a batch that took so long, in a round that has lasted so long. A tenth of one core's
// time is not felt by the sagas that run (`pgsagaz bench archive`: their p99 moves by 5 to 14 %; with a fifth, in longer batches, by 18 %). Where
// that does not keep up with what ends it takes more: tables that grow for ever are felt more.
func rest(batch, round time.Duration) time.Duration {
	share := time.Duration(9)
	switch {
	case round > 6*time.Hour:
		share = 1
	case round > time.Hour:
		share = 4
	}
	return max(archiveRest, share*batch)
}

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
	total, started := 0, time.Now()
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
		if !pause(ctx, rest(time.Since(begun), time.Since(started))) {
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
