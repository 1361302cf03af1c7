package power

import (
	"bytes"
	"time"
)

// promptWait is how long a console may be silent in the middle of a line before
// that line counts: a login prompt has no end.
const promptWait = 250 * time.Millisecond

// maxLine is where a line is cut that does not end by itself.
const maxLine = 4096

// lines cuts what a machine prints into lines. Write blocks while the reader is
// busy, which slows the machine's serial line down and nothing else.
type lines struct {
	say  func([]string)
	in   chan []byte
	part []byte
}

func newLines(say func([]string)) *lines { return &lines{say: say, in: make(chan []byte, 64)} }

func (l *lines) Write(p []byte) (int, error) {
	l.in <- bytes.Clone(p)
	return len(p), nil
}

// close ends run, after the last Write.
func (l *lines) close() { close(l.in) }

// run hands lines on until close: all that came at once together, and the begun one
// when nothing came after it.
func (l *lines) run() {
	timer := time.NewTimer(promptWait)
	defer timer.Stop()
	for {
		select {
		case p, ok := <-l.in:
			if !ok {
				l.flush()
				return
			}
			l.tell(l.cut(p))
			timer.Reset(promptWait)
		case <-timer.C:
			l.flush()
		}
	}
}

// cut adds p and takes the full lines out. Line ends are \n, \r\n and, for progress
// that is painted over, \r; empty lines are left out.
func (l *lines) cut(p []byte) (full []string) {
	l.part = append(l.part, p...)
	for {
		i := bytes.IndexAny(l.part, "\r\n")
		if i < 0 && len(l.part) < maxLine {
			return full
		}
		if i < 0 {
			i = maxLine - 1
		}
		if line := bytes.TrimRight(l.part[:i+1], "\r\n"); len(line) > 0 {
			full = append(full, string(line))
		}
		l.part = l.part[i+1:]
	}
}

func (l *lines) flush() {
	if len(l.part) > 0 {
		l.tell([]string{string(l.part)})
		l.part = nil
	}
}

func (l *lines) tell(full []string) {
	if len(full) > 0 {
		l.say(full)
	}
}
