package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"carte/lab"
)

// A meter shows how far something long is, with its rate and the time left, on a terminal and nowhere else. Its methods
// may be called from any goroutine.
type meter struct {
	c     *call
	what  string
	mu    sync.Mutex
	of    int64
	start time.Time
	drawn time.Time
	width int // of the line on the terminal
}

func (c *call) meter(what string, of int64) *meter {
	return &meter{c: c, what: what, of: of, start: c.term.Now()}
}

func (m *meter) toOf(done, of int64) {
	m.mu.Lock()
	m.of = of
	m.mu.Unlock()
	m.to(done)
}

// to says how much is done. It draws four times a second, beginning after one.
func (m *meter) to(done int64) {
	if !m.c.term.Progress || m.c.quiet {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.c.term.Now()
	spent := now.Sub(m.start)
	if spent < time.Second || now.Sub(m.drawn) < time.Second/4 {
		return
	}
	m.drawn = now
	m.draw(m.line(done, spent))
}

func (m *meter) line(done int64, spent time.Duration) string {
	rate := float64(done) / spent.Seconds()
	line := fmt.Sprintf("%s: %s", m.what, lab.Bytes(done))
	if m.of > 0 {
		line += fmt.Sprintf(" of %s, %d%%", lab.Bytes(m.of), done*100/m.of)
	}
	line += fmt.Sprintf(", %s/s", lab.Bytes(int64(rate)))
	if m.of > done && rate > 0 {
		line += fmt.Sprintf(", %s left", time.Duration(float64(m.of-done)/rate*float64(time.Second)).Round(time.Second))
	}
	return line
}

// draw writes over the line before: no escape sequence is needed for that.
func (m *meter) draw(line string) {
	fmt.Fprintf(m.c.term.Err, "\r%s%s", line, strings.Repeat(" ", max(0, m.width-len(line))))
	m.width = len(line)
}

// end takes the line away.
func (m *meter) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.width > 0 {
		m.draw("")
		fmt.Fprint(m.c.term.Err, "\r")
		m.width = 0
	}
}

// readLine reads to the end of a line, byte by byte: what comes after it is not ours.
func readLine(r io.Reader) (string, error) {
	var line []byte
	for b := make([]byte, 1); len(line) < 1000; {
		n, err := r.Read(b)
		if n > 0 {
			if b[0] == '\n' {
				return strings.TrimSpace(string(line)), nil
			}
			line = append(line, b[0])
		}
		if err != nil {
			return "", err
		}
	}
	return "", errors.New("the line is too long")
}
