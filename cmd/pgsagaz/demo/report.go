package demo

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

// Report is how a run went.
type Report struct {
	Run            string    `json:"run"`
	Tag            string    `json:"tag"` // what the run's sagas are found by
	Orders         int       `json:"orders"`
	Doomed         int       `json:"doomed"` // orders that could not succeed
	Completed      int       `json:"completed"`
	Compensated    int       `json:"compensated"`
	Seconds        float64   `json:"seconds"` // from the first saga's start to the last one's end
	SagasPerSecond float64   `json:"sagas_per_second"`
	P50MS          float64   `json:"p50_ms"` // of a saga, from its start to its end
	P99MS          float64   `json:"p99_ms"`
	Bank           BankCalls `json:"bank"`
	Kills          []Kill    `json:"kills,omitempty"`
	Takeovers      int       `json:"takeovers"`
	Audit          []Finding `json:"audit"`
	OK             bool      `json:"ok"` // the audit found nothing
}

// report counts, and audits.
func (r *run) report(ctx context.Context) (*Report, error) {
	rep := &Report{Run: r.id, Tag: r.tag(), Orders: r.Orders, Bank: r.bank.counted()}
	if r.killer != nil {
		rep.Kills = r.killer.kills
		for _, k := range rep.Kills {
			rep.Takeovers += len(k.Takeovers)
		}
	}
	sagas := map[string]pgengine.Status{}
	var took []time.Duration
	var first, last time.Time
	for s, err := range r.engine.List(ctx, pgengine.Filter{Tag: r.tag()}) {
		if err != nil {
			return nil, err
		}
		sagas[s.ID] = s
		switch s.State {
		case pgengine.Completed:
			rep.Completed++
		case pgengine.Compensated:
			rep.Compensated++
		}
		if s.EndedAt == nil {
			continue
		}
		took = append(took, s.EndedAt.Sub(s.CreatedAt))
		if first.IsZero() || s.CreatedAt.Before(first) {
			first = s.CreatedAt
		}
		if s.EndedAt.After(last) {
			last = *s.EndedAt
		}
	}
	slices.Sort(took)
	rep.P50MS, rep.P99MS = quantile(took, 0.50), quantile(took, 0.99)
	if rep.Seconds = last.Sub(first).Seconds(); rep.Seconds > 0 {
		rep.SagasPerSecond = float64(len(took)) / rep.Seconds
	}
	a, err := r.newAudit(ctx, sagas)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	rep.Audit, rep.OK = a.findings()
	rep.Doomed = a.doomed
	return rep, nil
}

// quantile of sorted durations, in milliseconds.
func quantile(sorted []time.Duration, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	i := min(int(q*float64(len(sorted))), len(sorted)-1)
	return float64(sorted[i].Microseconds()) / 1000
}

// Print writes the report for people.
func (rep *Report) Print(w io.Writer) {
	p := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	p("")
	p("%d orders in %.1f s (%.0f sagas/s): %d completed, %d compensated, of which %d could not succeed",
		rep.Orders, rep.Seconds, rep.SagasPerSecond, rep.Completed, rep.Compensated, rep.Doomed)
	p("a saga took %.0f ms (p50), %.0f ms (p99)", rep.P50MS, rep.P99MS)
	p("%s; %d requests repeated with a known key, %d charges came too late", rep.Bank, rep.Bank.Repeated, rep.Bank.RefusedAsLate)
	if len(rep.Kills) > 0 {
		p("%d workers killed, %d steps taken over", len(rep.Kills), rep.Takeovers)
	}
	p("")
	for _, f := range rep.Audit {
		mark := "ok  "
		if !f.OK {
			mark = "FAIL"
		}
		p("  %s  %s", mark, f.Rule)
		for _, wrong := range f.Wrong {
			p("          %s", wrong)
		}
	}
	p("")
	if rep.OK {
		p("The audit found nothing.")
	} else {
		p("The audit FAILED.")
	}
}
