package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

// watchEvery is how often a saga that is watched is looked at.
const watchEvery = 200 * time.Millisecond

func (a *app) sagaWatch() *cobra.Command {
	return &cobra.Command{
		Use: "watch ID", Short: "Follow a saga until it ends", Args: oneID,
		Long: "Follows a saga until it ends, or Ctrl-C: a line for whatever happens to it, beginning with what has happened\n" +
			"so far. With --json a line is a JSON object. Exit status 1 if it ends compensated.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withDesk(cmd.Context(), func(d desk) error {
				end, err := a.watch(cmd.Context(), d, args[0])
				if err != nil {
					if cmd.Context().Err() != nil {
						return nil // somebody has seen enough
					}
					return err
				}
				return unless(end == pgengine.Completed)
			})
		},
	}
}

func (a *app) watch(ctx context.Context, d desk, id string) (pgengine.State, error) {
	told := map[string]bool{}
	for {
		s, events, err := d.History(ctx, id)
		if err != nil {
			return "", err
		}
		events = append(events, standing(s)...)
		for _, x := range events {
			key := fmt.Sprint(x.What, x.Step, x.Direction, x.Who, x.Text, x.At.UnixNano())
			if told[key] {
				continue
			}
			told[key] = true
			if err := a.tell(x); err != nil {
				return "", err
			}
		}
		if s.State.Ended() {
			return s.State, nil
		}
		if err := pause(ctx, watchEvery); err != nil {
			return "", err
		}
	}
}

// standing is where a saga stands that has not ended: it is no event, and is told when it changes.
func standing(s pgengine.Status) (now []pgengine.Entry) {
	if s.State.Ended() {
		return nil
	}
	now = append(now, pgengine.Entry{What: "is", Text: stateOf(s)})
	for _, t := range s.Steps {
		switch t.State {
		case "running", "waiting", "awaiting", "sleeping", "child", "stuck":
			now = append(now, pgengine.Entry{What: t.State, Step: t.Step, Direction: t.Direction, Who: t.Worker, Text: t.Error})
		}
	}
	return now
}

// tell prints one line.
func (a *app) tell(x pgengine.Entry) error {
	if a.cfg.json {
		return json.NewEncoder(a.Stdout).Encode(x)
	}
	cells := eventCells(x)
	if x.At.IsZero() {
		cells[0] = clock(time.Now())
	}
	_, err := fmt.Fprintln(a.Stdout, strings.TrimRight(fmt.Sprintf("%s  %-9s %-16s %-12s %s", cells[0], cells[1], cells[2], cells[3], cells[4]), " "))
	return err
}
