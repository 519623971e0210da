package jobs

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

// scheduler starts what schedules say, as the others do: the database sees to it that each slot counts once.
type scheduler struct {
	engine *pgengine.Engine
	log    *slog.Logger
	every  time.Duration // how often it looks, so that it hears of new schedules and of those that a dead worker was at
}

// run starts sagas until ctx ends. What falls due before the next look is there in time.
func (s *scheduler) run(ctx context.Context) error {
	for {
		bounded, cancel := context.WithTimeout(ctx, 30*time.Second)
		started, next, err := s.engine.RunSchedules(bounded)
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			s.log.WarnContext(ctx, "the schedules could not be looked at; the next look tries again", "error", err)
			next = s.every
		case started > 0:
			s.log.DebugContext(ctx, "schedules started sagas", "sagas", started)
		}
		if !pause(ctx, max(min(next, s.every/2+rand.N(s.every/2)), 5*time.Millisecond)) { // not at once: another may be at it
			return nil
		}
	}
}
