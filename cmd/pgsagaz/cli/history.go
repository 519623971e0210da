package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

func (a *app) sagaHistory() *cobra.Command {
	return &cobra.Command{
		Use: "history ID", Short: "Tell all that happened to a saga, in the order of time", Args: oneID,
		Long: "Tells all that happened to a saga, in the order of time: its start, its steps and failed attempts, signals,\n" +
			"messages, children, what people asked of it and what became of that, its end. Also of one that is archived.\n" +
			"Of a message that was published it tells for as long as published messages are kept.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withDesk(cmd.Context(), func(d desk) error {
				s, events, err := d.History(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				out := struct {
					ID       string           `json:"id"`
					Name     string           `json:"name"`
					State    pgengine.State   `json:"state"`
					Archived bool             `json:"archived,omitempty"`
					Events   []pgengine.Entry `json:"events"`
				}{s.ID, s.Name, s.State, s.Archived, events}
				return a.print(out, func(w io.Writer) {
					fmt.Fprintf(w, "saga %s  %s/%d  %s\n\n", s.ID, s.Name, s.Version, stateOf(s))
					var rows [][]string
					for _, x := range events {
						rows = append(rows, eventCells(x))
					}
					table(w, "  ", rows)
				})
			})
		},
	}
}

func eventCells(x pgengine.Entry) []string {
	step := x.Step
	if x.Direction == pgengine.Undo {
		step = "undo " + step
	}
	return []string{clock(x.At), x.What, orDash(step), orDash(x.Who), clip(x.Text, 160)}
}
