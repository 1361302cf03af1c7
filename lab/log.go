package lab

import (
	"context"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// A Line is one line of a machine's log. Its text is clean: no control characters, nothing that could steer a terminal.
type Line struct {
	Seq     int64     `json:"seq"`
	At      time.Time `json:"at"`
	Machine int64     `json:"machine"` // 0: carte itself
	Source  string    `json:"source"`  // serial, agent, dhcp, tftp, http, carte
	Text    string    `json:"text"`
}

// keptLines is how many lines the lab keeps in memory, of all machines together.
const keptLines = 1 << 16

// maxLine is the most bytes of a line that are kept.
const maxLine = 4096

type logs struct {
	keep func(Line) // where lines go besides the ring; nil: nowhere

	mu      sync.Mutex
	ring    []Line
	last    int64 // Seq of the newest line
	changed chan struct{}
}

func (g *logs) init() { g.changed = make(chan struct{}) }

// Log adds a line. Its text is cleaned and its Seq and, where it has none, its time are set.
func (l *Lab) Log(line Line) {
	line.Text = Clean(line.Text)
	if line.At.IsZero() {
		line.At = l.now().UTC()
	}
	g := &l.logs
	g.mu.Lock()
	defer g.mu.Unlock()
	g.last++
	line.Seq = g.last
	g.add(line)
	if g.keep != nil {
		g.keep(line)
	}
	close(g.changed)
	g.changed = make(chan struct{})
}

func (g *logs) add(line Line) {
	if len(g.ring) < keptLines {
		g.ring = append(g.ring, line)
	} else {
		g.ring[(line.Seq-1)%keptLines] = line
	}
}

// Recall puts the lines of earlier runs in front of the log, which must still be empty: else it does nothing.
func (l *Lab) Recall(past []Line) {
	g := &l.logs
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.last > 0 {
		return
	}
	for _, line := range past[max(0, len(past)-keptLines):] {
		g.last++
		line.Seq = g.last
		g.add(line)
	}
}

// Tail asks for lines newer than After, of one machine or, with 0, of all. With Wait it blocks until there is one.
type Tail struct {
	Machine int64 `json:"machine"`
	After   int64 `json:"after"`
	Max     int   `json:"max"` // the newest so many; 0: all that are kept
	Wait    bool  `json:"wait"`
}

// Tail returns lines, oldest first, and the Seq to ask after next. Lost is how many lines after t.After were no longer
// kept.
func (l *Lab) Tail(ctx context.Context, t Tail) (lines []Line, next, lost int64, err error) {
	for {
		g := &l.logs
		g.mu.Lock()
		if t.After > g.last { // a Seq from before the server was restarted
			t.After = 0
		}
		first := g.last - int64(len(g.ring)) + 1
		from := max(t.After+1, first)
		if t.After > 0 {
			lost = max(0, first-t.After-1)
		}
		for seq := g.last; seq >= from; seq-- {
			if line := g.ring[(seq-1)%keptLines]; t.Machine == 0 || line.Machine == t.Machine {
				lines = append(lines, line)
				if t.Max > 0 && len(lines) == t.Max {
					break
				}
			}
		}
		next, changed := g.last, g.changed
		g.mu.Unlock()
		if len(lines) > 0 || !t.Wait {
			for i, j := 0, len(lines)-1; i < j; i, j = i+1, j-1 {
				lines[i], lines[j] = lines[j], lines[i]
			}
			return lines, next, lost, nil
		}
		t.After = next
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, next, lost, ctx.Err()
		}
	}
}

// unprintable runes steer a terminal, change the direction of writing, or have no width.
func unprintable(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Variation_Selector)
}

// Clean makes text from a machine safe to show: escape sequences, control characters, and characters that change the
// direction of writing or have no width are left out, a tab is a space, broken UTF-8 is U+FFFD. At most maxLine bytes.
func Clean(s string) string {
	if len(s) > maxLine {
		s = cut(s, maxLine)
	}
	plain := true
	for i := range len(s) {
		if s[i] < ' ' || s[i] >= 0x7f {
			plain = false
			break
		}
	}
	if plain {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == 0x1b:
			n = escape(s[i:])
		case r == '\t':
			b.WriteByte(' ')
		case r == utf8.RuneError && n == 1:
			b.WriteRune(utf8.RuneError)
		case unprintable(r):
		default:
			b.WriteRune(r)
		}
		i += n
	}
	return cut(b.String(), maxLine) // broken bytes became longer
}

// cut shortens s to at most limit bytes, the sign that it was cut among them.
func cut(s string, limit int) string {
	const sign = "…"
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit-len(sign)], "") + sign
}

// escape is the length of the escape sequence that s begins with (ECMA-48, 5.4 and 5.6).
func escape(s string) int {
	if len(s) < 2 {
		return len(s)
	}
	switch s[1] {
	case '[': // CSI: parameters, then one final byte
		for i := 2; i < len(s); i++ {
			if s[i] >= 0x40 && s[i] <= 0x7e {
				return i + 1
			}
		}
		return len(s)
	case ']', 'P', '^', '_', 'X': // strings: until BEL or ESC \
		for i := 2; i < len(s); i++ {
			if s[i] == 0x07 {
				return i + 1
			}
			if s[i] == 0x1b {
				return min(i+2, len(s))
			}
		}
		return len(s)
	}
	i := 1
	for i < len(s) && s[i] >= 0x20 && s[i] <= 0x2f { // such as ESC ( B
		i++
	}
	return min(i+1, len(s))
}
