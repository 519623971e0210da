package demo

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
)

// screen shows events, which stay, above a status, which is redrawn. Where lines cannot be redrawn, the
// status is printed once a second, if it has changed.
type screen struct {
	mu       sync.Mutex
	w        io.Writer
	terminal bool
	lines    []string  // of the status
	printed  time.Time // when the status was last printed
}

func newScreen(w io.Writer, terminal bool) *screen {
	if w == nil {
		w = io.Discard
	}
	return &screen{w: w, terminal: terminal, printed: time.Now()}
}

func (s *screen) event(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draw(fmt.Sprintf(format, args...)+"\n", s.lines)
}

func (s *screen) status(lines ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case slices.Equal(lines, s.lines):
	case s.terminal:
		s.draw("", lines)
	case time.Since(s.printed) > time.Second:
		s.lines, s.printed = lines, time.Now()
		fmt.Fprintln(s.w, strings.Join(lines[1:], "   ")) // without the bar
	}
}

// draw writes above where the status was, and the status below it; in one write, so that nothing flickers.
func (s *screen) draw(above string, status []string) {
	if !s.terminal {
		_, _ = io.WriteString(s.w, above) // a screen that has gone is no reason to stop
		return
	}
	var b strings.Builder
	if len(s.lines) > 0 {
		fmt.Fprintf(&b, "\x1b[%dA\x1b[J", len(s.lines))
	}
	b.WriteString(above)
	for _, line := range status {
		b.WriteString("\x1b[?7l" + line + "\x1b[?7h\n") // a line that wrapped would be two to erase
	}
	s.lines = status
	_, _ = io.WriteString(s.w, b.String())
}
