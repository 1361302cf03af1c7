package tui

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"carte/lab"
	"carte/tui/action"
	"carte/tui/cell"
)

// keptLines is how many lines of the log the screen can scroll back over. The lab keeps more.
const keptLines = 10000

// How the time of a line is written.
const (
	clockDay   = iota // of the day
	clockBoot         // since the boot began
	clockSince        // since the line before
	clocks
)

// A journal is the window of the log that the screen keeps: the newest lines of one machine, or of all.
type journal struct {
	turn  int // whose lines these are, as the feed counts
	whose int64
	lines []lab.Line
	kept  []int // the lines that the filter keeps, when there is one
	f     filter
	// follow keeps the newest line in view. Otherwise end is the line after the last in view, among those kept.
	follow bool
	end    int
	fresh  int // lines that came while not following
	wrap   bool
	clock  int
	lost   int64

	second time.Time // the second that is being counted
	count  int
	rate   int // lines in the second before
}

func (j *journal) reset(turn int) {
	j.turn, j.lines, j.kept, j.end, j.fresh, j.lost, j.count, j.rate = turn, nil, nil, 0, 0, 0, 0, 0
	j.follow = true
}

// seek makes the journal that of a place.
func (j *journal) seek(p place, m *model) {
	whose := int64(0)
	if p.at == action.Boot || p.at == action.Log {
		whose = p.machine
	}
	j.clock = clockDay
	if p.at == action.Boot {
		j.clock = clockBoot
	}
	if whose != j.whose {
		j.whose = whose
		j.reset(m.feed.show(whose))
	}
	j.follow = true
	j.sift(m.filters[p], p.at == action.Boot || p.at == action.Log)
}

// sift sets the filter. A filter of a list is none of the log's.
func (j *journal) sift(f filter, mine bool) {
	if !mine {
		f = filter{}
	}
	j.f, j.kept = f, nil
	j.keep(0)
	j.end = min(j.end, j.n())
}

// keep looks at the lines from the one at from on.
func (j *journal) keep(from int) {
	if len(j.f.terms) == 0 {
		return
	}
	for i := from; i < len(j.lines); i++ {
		if l := j.lines[i]; l.Source == "" || j.f.keeps(l.Source+" "+l.Text, nil) {
			j.kept = append(j.kept, i)
		}
	}
}

// n is how many lines there are, after the filter.
func (j *journal) n() int {
	if len(j.f.terms) > 0 {
		return len(j.kept)
	}
	return len(j.lines)
}

func (j *journal) line(i int) lab.Line {
	if len(j.f.terms) > 0 {
		i = j.kept[i]
	}
	return j.lines[i]
}

// add takes lines from the feed, and counts.
func (j *journal) add(msg wakeMsg, now time.Time) {
	if s := now.Truncate(time.Second); s != j.second {
		if j.rate = j.count; s.Sub(j.second) > 2*time.Second {
			j.rate = 0
		}
		j.second, j.count = s, 0
	}
	if msg.turn != j.turn || len(msg.lines) == 0 && msg.lost == 0 {
		return
	}
	before := j.n()
	if msg.lost > 0 {
		j.lost += msg.lost
		j.lines = append(j.lines, lab.Line{Text: fmt.Sprintf("… %d lines not kept", msg.lost)})
	}
	from := len(j.lines)
	j.lines = append(j.lines, msg.lines...)
	for i := len(msg.lines) - 1; i >= 0 && now.Sub(msg.lines[i].At) < 2*time.Second; i-- {
		j.count++ // older ones are what was said before anybody looked
	}
	j.keep(from)
	if !j.follow {
		j.fresh += j.n() - before
	}
	if len(j.lines) > 2*keptLines {
		j.trim()
	}
}

// trim forgets the oldest lines. What is in view stays in view as long as it is kept.
func (j *journal) trim() {
	cut := len(j.lines) - keptLines
	gone := cut
	if len(j.f.terms) > 0 {
		gone, _ = slices.BinarySearch(j.kept, cut)
	}
	j.lines = slices.Clone(j.lines[cut:])
	j.kept = nil
	j.keep(0)
	j.end = max(0, j.end-gone)
}

// scroll moves the window. At the newest line it follows.
func (j *journal) scroll(by int) {
	if j.follow {
		if by >= 0 {
			return
		}
		j.end = j.n()
	}
	j.follow = false
	j.end = min(max(j.end+by, 1), j.n())
	if j.end == j.n() {
		j.follow, j.fresh = true, 0
	}
}

// title says what the log shows, and right how.
func (m *model) logTitle() (title, right string) {
	j := &m.log
	title = "Log: all machines"
	if j.whose != 0 {
		title = "Log: " + m.snap().Machines[j.whose].Label()
	}
	if j.f.text != "" {
		title += "  /" + j.f.text
	}
	parts := []string{"following"}
	if !j.follow {
		parts[0] = "stopped, f follows"
		if j.fresh > 0 {
			parts[0] = fmt.Sprintf("stopped, %d new, f follows", j.fresh)
		}
	}
	if j.rate > 0 {
		parts = append(parts, fmt.Sprintf("%s lines/s", thousands(j.rate)))
	}
	if j.lost > 0 {
		parts = append(parts, fmt.Sprintf("%d lost", j.lost))
	}
	return title, strings.Join(parts, "  ")
}

// drawLog fills r with the log, the newest line at its lower end.
func (m *model) drawLog(g *cell.Grid, r rect) {
	j := &m.log
	if r.h <= 0 {
		return
	}
	end := j.end
	if j.follow {
		end = j.n()
	}
	end = min(max(end, r.h), j.n())
	r.x, r.w = r.x+1, r.w-2
	form := m.logForm(r.w)
	first, rows := end, 0
	for first > 0 && rows < r.h {
		first--
		rows += form.height(j.line(first), r.w, j.wrap)
	}
	y := r.y - max(0, rows-r.h)
	for i := first; i < end; i++ {
		l := j.line(i)
		var before lab.Line
		if i > 0 {
			before = j.line(i - 1)
		}
		y = m.drawLine(g, rect{r.x, y, r.w, r.h}, r.y, form, l, before)
	}
	if j.n() == 0 {
		g.Text(r.x, r.y, r.w, cell.Dim, m.noLines())
	}
}

func (m *model) noLines() string {
	if m.log.f.text != "" {
		return "No line has that. esc shows all."
	}
	return "Nothing was said yet."
}

// A form is where the parts of a line begin.
type form struct {
	clock, name, source, text int // cells from the left; name -1: only one machine is shown
}

func (m *model) logForm(w int) form {
	f := form{clock: 8, name: -1}
	if m.log.clock != clockDay || w >= 100 {
		f.clock = 12
	}
	if m.log.clock != clockDay {
		f.clock = 9
	}
	at := f.clock + 1
	if m.log.whose == 0 {
		f.name = at
		at += 9
	}
	f.source, f.text = at, at+7
	if w < 60 {
		f.text = f.source // no room for the source
	}
	return f
}

// height is how many rows a line takes.
func (f form) height(l lab.Line, w int, wrap bool) int {
	room := w - f.text
	if !wrap || room <= 0 {
		return 1
	}
	return len(hardWrapped(l.Text, room))
}

// drawLine draws a line at r.y, leaves out its rows above top, and returns where the next begins.
func (m *model) drawLine(g *cell.Grid, r rect, top int, f form, l, before lab.Line) int {
	if l.Source == "" {
		g.Text(r.x, r.y, r.w, cell.Yellow, l.Text)
		return r.y + 1
	}
	if r.y >= top {
		g.Right(r.x+f.clock, r.y, f.clock, cell.Dim, m.lineTime(l, before, f.clock))
		if f.name >= 0 {
			g.Text(r.x+f.name, r.y, 8, cell.Bold, m.who(l.Machine))
		}
		if f.text > f.source {
			g.Text(r.x+f.source, r.y, 6, sourceStyle(l.Source), l.Source)
		}
	}
	style := lineStyle(l.Text)
	if !m.log.wrap {
		g.Text(r.x+f.text, r.y, r.w-f.text, style, l.Text)
		return r.y + 1
	}
	for _, part := range hardWrapped(l.Text, r.w-f.text) {
		if r.y >= top {
			g.Text(r.x+f.text, r.y, r.w-f.text, style, part)
		}
		r.y++
	}
	return r.y
}

// hardWrapped cuts a text every w cells.
func hardWrapped(s string, w int) (parts []string) {
	if w <= 0 {
		return []string{s}
	}
	for len(s) > w && cell.Width(s) > w {
		n := w
		if cell.Width(s[:w]) == w { // as for all of ASCII
			parts, s = append(parts, s[:n]), s[n:]
			continue
		}
		n = 0
		for i := range s {
			if cell.Width(s[:i]) > w {
				break
			}
			n = i
		}
		if n == 0 {
			break
		}
		parts, s = append(parts, s[:n]), s[n:]
	}
	return append(parts, s)
}

// who names the machine of a line.
func (m *model) who(machine int64) string {
	if machine == 0 {
		return "carte"
	}
	mc, ok := m.snap().Machines[machine]
	if !ok {
		return "?"
	}
	return machineRow{Machine: mc}.label()
}

// lineTime writes the time of a line.
func (m *model) lineTime(l, before lab.Line, w int) string {
	switch m.log.clock {
	case clockBoot:
		if b, ok := m.shownBoot(); ok {
			return fmt.Sprintf("%.3f", l.At.Sub(began(b)).Seconds())
		}
	case clockSince:
		if before.At.IsZero() {
			return "0.000"
		}
		return fmt.Sprintf("+%.3f", l.At.Sub(before.At).Seconds())
	}
	at := l.At.In(m.now.Location())
	if w >= 12 {
		return at.Format("15:04:05.000")
	}
	return at.Format("15:04:05")
}

func sourceStyle(source string) cell.Style {
	switch source {
	case "carte":
		return cell.Cyan
	case "agent":
		return cell.Green
	case "serial", "console":
		return cell.Plain
	}
	return cell.Blue
}

// lineStyle marks the lines that a person would look for.
func lineStyle(s string) cell.Style {
	switch {
	case strings.Contains(s, "panic") || strings.Contains(s, "BUG:") || strings.Contains(s, "Oops"):
		return cell.Red
	case strings.Contains(s, "WARN") || strings.Contains(s, "rror"):
		return cell.Yellow
	}
	return cell.Plain
}
