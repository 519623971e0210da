package sagaui

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// plain makes a text of anybody's fit to be read: characters that hide, that turn the writing round or that control are shown
// by their code points. Markup is the template's to escape.
func plain(s string) string {
	odd := func(r rune) bool {
		return r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r)) || r == utf8.RuneError || r == '\u2028' || r == '\u2029'
	}
	if strings.IndexFunc(s, odd) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if odd(r) {
			fmt.Fprintf(&b, "⟨U+%04X⟩", r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// clip cuts s to at most n bytes, at a character's end, and says so.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

// text is something that may be long, as it is shown.
type text struct {
	Shown string
	Cut   int64 // bytes of the whole, if it was cut
}

// show cuts first, so that a large payload costs no more than its beginning.
func (c *console) show(s string) text {
	t := text{Shown: s}
	if len(s) > c.MaxShown {
		t.Shown, t.Cut = clip(s, c.MaxShown), int64(len(s))
	}
	t.Shown = plain(t.Shown)
	return t
}

// pretty is JSON with a line a field, if there is little of it.
func (c *console) pretty(raw json.RawMessage) text {
	var b bytes.Buffer
	if len(raw) <= c.MaxShown && json.Indent(&b, raw, "", "  ") == nil {
		return text{Shown: plain(b.String())}
	}
	return c.show(string(raw))
}

// span is a time that something took, or is ago, in its two largest units.
func span(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + span(-d)
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d days", int(d.Hours())/24)
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// size is a number of bytes.
func size(n int64) string {
	switch {
	case n < 1000:
		return fmt.Sprintf("%d B", n)
	case n < 1_000_000:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	case n < 1_000_000_000:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.1f GB", float64(n)/1e9)
}

// escaped is a name as a part of a path.
func escaped(name string) string { return url.PathEscape(name) }
