package pgengine_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

// Report is the input of the saga that docs/schedules.md starts.
type Report struct {
	Of string    `json:"of"`
	At time.Time `json:"at,omitzero"`
}

func (Report) SagaName() string { return "report" }

// nightly has the day's report made at three in the morning, also if nobody was there at three.
func nightly(ctx context.Context, tx pgx.Tx, engine *pgengine.Engine) error {
	return engine.Schedule(ctx, tx, Report{Of: "sales"}, pgengine.Schedule{
		Name: "nightly", Cron: "0 3 * * *", Zone: "Europe/Berlin", CatchUp: pgengine.CatchUpOnce, SlotField: "at",
	})
}

// The page's schedule is the one that is compiled and run here.
func TestDocsOfSchedules(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/schedules.md")
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("example_schedule_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(example), "// nightly has")
	block, _, ok := strings.Cut(rest, "\n}\n")
	if !ok || !strings.Contains(string(page), "```go\n// nightly has"+block+"\n}\n```") {
		t.Error("the page's schedule is not that of example_schedule_test.go")
	}
	s := newTimetable(t, "2026-05-04T12:00:00Z")
	s.Tx(func(tx pgx.Tx) error { return nightly(t.Context(), tx, s.Engine) })
	s.goTo("2026-05-05T02:00:00Z")
	s.Run()
	s.want("2026-05-05T01:00:00Z")
}

// The slots of a schedule around a change to summer time.
func ExampleScheduleStatus_Coming() {
	berlin, _ := time.LoadLocation("Europe/Berlin")
	slots, err := pgengine.ScheduleStatus{Cron: "30 2 * * *", Zone: "Europe/Berlin"}.Coming(time.Date(2026, 3, 28, 0, 0, 0, 0, berlin), 3)
	for _, s := range slots {
		fmt.Println(s.In(berlin))
	}
	fmt.Println(err)
	// Output:
	// 2026-03-28 02:30:00 +0100 CET
	// 2026-03-29 03:00:00 +0200 CEST
	// 2026-03-30 02:30:00 +0200 CEST
	// <nil>
}
