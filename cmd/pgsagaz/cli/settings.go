package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// settingInForce is a row of the table with its value.
type settingInForce struct {
	Flag      string   `json:"flag"`
	Variables []string `json:"variables"`
	Value     any      `json:"value"`
	From      string   `json:"from"` // default, --flag, the variable, or the file and its variable
	Default   any      `json:"default"`
	Secret    bool     `json:"secret"`
	Help      string   `json:"help"`
}

func (a *app) config(root *cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: "config", Short: "Show every setting, its value, and where that comes from", Args: cobra.NoArgs,
		Long: "Shows every setting, its value, and where that comes from: a flag beats a variable, a variable beats a line of\n" +
			"the file of --config, and that beats the default. Passwords are not shown. It takes the flags of all commands;\n" +
			"if a value is not possible, it says so for all of them, and exits with 2.",
		RunE: func(*cobra.Command, []string) error {
			rows := a.cfg.inForce()
			return a.print(struct {
				Settings []settingInForce `json:"settings"`
			}{rows}, func(w io.Writer) {
				cells := [][]string{{"SETTING", "VALUE", "FROM"}}
				for _, r := range rows {
					cells = append(cells, []string{r.Flag, fmt.Sprint(r.Value), r.From})
				}
				table(w, "", cells)
			})
		},
	}
	var all []string
	for _, s := range a.cfg.settings() {
		if root.PersistentFlags().Lookup(s.flag) == nil {
			all = append(all, s.flag)
		}
	}
	a.cfg.bind(cmd.Flags(), all...)
	return cmd
}

func (c *config) inForce() []settingInForce {
	var rows []settingInForce
	for _, s := range c.settings() {
		row := settingInForce{
			Flag: "--" + s.flag, Variables: append([]string{}, strings.Fields(s.variables)...), From: "default",
			Default: readable(s.byDefault), Help: s.help,
		}
		if from := c.origins[s.flag]; from != "" {
			row.From = from
		}
		switch field := s.field.(type) {
		case secret:
			row.Value, row.Secret = field.show(*field.value), true
		case *string:
			row.Value = *field
		case *bool:
			row.Value = *field
		case *int:
			row.Value = *field
		case *float64:
			row.Value = *field
		case *time.Duration:
			row.Value = readable(*field)
		case *[]string:
			row.Value = readable(*field)
		}
		rows = append(rows, row)
	}
	return rows
}

// readable is a value as one would write it.
func readable(v any) any {
	switch v := v.(type) {
	case time.Duration:
		return shortDuration(v)
	case []string:
		return strings.Join(v, ",")
	}
	return v
}

// shortDuration is 5m0s as 5m.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
