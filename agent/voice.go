package agent

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
)

// Lines that wait for the next report: no more than this many of this length, so that a report stays far below
// lab.MaxMessage however long the server is away. The oldest go first.
const (
	maxLines   = 200
	maxLineLen = 1000
)

// A voice speaks whole lines to the person in front of the machine, and keeps them for the next report.
type voice struct {
	console io.Writer
	log     *slog.Logger

	mu      sync.Mutex
	waiting []string
	dropped int // lines ever removed from the front of waiting
}

// say speaks; text of more than one line becomes several.
func (v *voice) say(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for line := range strings.Lines(fmt.Sprintf(format, args...)) {
		line = strings.TrimRight(line, "\r\n")
		if len(line) > maxLineLen {
			line = line[:maxLineLen]
		}
		io.WriteString(v.console, "carte: "+line+"\n") // one write a line; a console that fails cannot be told about
		v.log.Info(line)
		v.waiting = append(v.waiting, line)
	}
	v.drop(len(v.waiting) - maxLines)
}

// unsaid returns the lines that no report has carried, and a mark for said.
func (v *voice) unsaid() (lines []string, mark int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]string(nil), v.waiting...), v.dropped + len(v.waiting)
}

// said forgets the lines up to mark: a report with them has arrived.
func (v *voice) said(mark int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.drop(mark - v.dropped)
}

func (v *voice) drop(n int) {
	if n > 0 {
		v.waiting, v.dropped = v.waiting[n:], v.dropped+n
	}
}
