package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

func (a *app) sagaVersions() *cobra.Command {
	return &cobra.Command{
		Use: "versions [NAME]", Short: "Show how many sagas still run on which version, and who can work it", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := strings.Join(args, "")
			return a.withDesk(cmd.Context(), func(d desk) error {
				versions, err := d.Versions(cmd.Context(), name)
				if err != nil {
					return err
				}
				if name != "" && len(versions) == 0 {
					return fmt.Errorf("versions of %s: %w: a worker registers its sagas when it starts", name, pgengine.ErrUnknownSaga)
				}
				out := struct {
					Versions []pgengine.VersionStatus `json:"versions"`
				}{append([]pgengine.VersionStatus{}, versions...)}
				return a.print(out, func(w io.Writer) { showVersions(w, versions) })
			})
		},
	}
}

func showVersions(w io.Writer, versions []pgengine.VersionStatus) {
	if len(versions) == 0 {
		fmt.Fprintln(w, "no sagas are registered: a worker registers its own when it starts")
		return
	}
	rows := [][]string{{"SAGA", "REGISTERED", "UNFINISHED", "STUCK", "LIVE WORKERS", ""}}
	for _, v := range versions {
		remark := ""
		switch {
		case v.Workers == 0 && v.Unfinished > 0:
			remark = "STANDS STILL: no live worker has its code"
		case v.Workers == 0:
			remark = "not in use"
		case v.Stuck > 0:
			remark = "see: pgsagaz saga list --state stuck --name " + v.Name
		}
		registered := "not yet"
		if v.RegisteredAt != nil {
			registered = clock(*v.RegisteredAt)
		}
		rows = append(rows, []string{
			fmt.Sprintf("%s/%d", v.Name, v.Version), registered, fmt.Sprint(v.Unfinished), fmt.Sprint(v.Stuck), fmt.Sprint(v.Workers), remark,
		})
	}
	table(w, "", rows)
}
