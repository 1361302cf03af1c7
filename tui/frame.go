package tui

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"carte/lab"
	"carte/tui/action"
	"carte/tui/cell"
)

// The sizes at which the layout changes: two panes side by side with boxes around them, panes below one another, and
// what is left of it all in a small window.
const (
	wide       = 120
	high       = 20 // boxes need this, too
	narrow     = 60
	low        = 12
	logAtLeast = 4 // lines of log below a list
)

// boxed says whether there is room for boxes and for panes side by side.
func (m *model) boxed() bool { return m.w >= wide && m.h >= high }

// draw draws everything.
func (m *model) draw(g *cell.Grid) {
	rows := m.rows()
	if m.w < narrow || m.h < low {
		m.drawSmall(g, rows)
	} else {
		m.drawHead(g, rows)
		m.drawTabs(g)
		m.drawBody(g, rect{0, 2, m.w, m.h - 4}, rows)
		m.drawHints(g)
		m.drawLast(g)
	}
	if m.over != nil {
		m.over.draw(m, g)
	}
}

func (m *model) drawBody(g *cell.Grid, r rect, rows []machineRow) {
	if m.x == nil {
		g.Text(margin, r.y+1, r.w, cell.Dim, "waiting for the lab's first word …")
		return
	}
	switch m.at.at {
	case action.Queue:
		m.drawQueue(g, r)
	case action.Images:
		m.drawImages(g, r)
	case action.Stacks:
		m.drawStacks(g, r)
	case action.Compose:
		m.drawCompose(g, r)
	case action.Boot:
		m.drawBoot(g, r)
	case action.Log:
		title, right := m.logTitle()
		m.drawLog(g, m.pane0(g, r, title, right))
	case needs:
		m.drawNeeds(g, r)
	default:
		m.drawMachines(g, r, rows)
	}
}

// pane0 frames a pane: a box in wide windows, else a line above it. It returns the inside.
func (m *model) pane0(g *cell.Grid, r rect, title, right string) rect {
	if m.boxed() {
		g.Box(r.x, r.y, r.w, r.h, cell.Dim, title, right)
		return rect{r.x + 1, r.y + 1, r.w - 2, max(0, r.h-2)}
	}
	g.Fill(r.x, r.y, r.w, cell.Dim, '─')
	g.Titles(r.x, r.y, r.w, title, right)
	return r.down(1)
}

// A part is a piece of the first line. Where there is no room, those with the largest drop go first.
type part struct {
	drop  int
	style cell.Style
	text  string
}

// How soon some parts go: what needs a person last.
const (
	dropTrouble = 2
	dropCount   = 5
	dropService = 7
)

// drawHead draws the first line: the lab, its services, machines by state, the queue, what needs you, the clock.
func (m *model) drawHead(g *cell.Grid, rows []machineRow) {
	clock := m.now.Format("15:04:05")
	if m.w < 100 {
		clock = clock[:5]
	}
	room := m.w - 2 - len(clock) - gap
	parts := m.headParts(rows, m.services(true))
	if width(parts) > room {
		parts = m.headParts(rows, m.services(false))
	}
	for width(parts) > room {
		worst := 0
		for i, p := range parts {
			if p.drop >= parts[worst].drop {
				worst = i
			}
		}
		if worst == 0 {
			break
		}
		parts = slices.Delete(parts, worst, worst+1)
	}
	x := 1
	for i, p := range parts {
		x += g.Text(x, 0, room+1-x, p.style, p.text) + gapAfter(parts, i)
	}
	g.Right(m.w-1, 0, len(clock), cell.Plain, clock)
}

func (m *model) headParts(rows []machineRow, services []part) []part {
	name := part{0, cell.Bold, strings.TrimSpace("carte " + m.opt.Name)}
	if m.gone != nil { // what the services were is no news, and nothing pushes these words out
		return append([]part{{0, cell.Yellow | cell.Reverse, m.goneWords()}, name}, m.counts(rows)...)
	}
	parts := append([]part{name}, services...)
	parts = append(parts, m.counts(rows)...)
	if m.x == nil {
		return parts
	}
	if n := len(m.x.waits); n > 0 {
		text := fmt.Sprintf("queue %d", n)
		if d, ok := m.x.left(m.asOf()); ok {
			text += " ~" + span(d)
		}
		parts = append(parts, part{3, cell.Plain, text})
	}
	if n := len(m.alerts()); n > 0 {
		parts = append(parts, part{1, cell.Yellow, fmt.Sprintf("!%d", n)})
	}
	return parts
}

// gapAfter is how many blanks follow a part. Counts stand close together.
func gapAfter(parts []part, i int) int {
	count := func(p part) bool { return p.drop == dropCount || p.drop == dropTrouble }
	if i+1 < len(parts) && count(parts[i]) && count(parts[i+1]) {
		return 1
	}
	return gap
}

func width(parts []part) (n int) {
	for i, p := range parts {
		n += cell.Width(p.text) + gapAfter(parts, i)
	}
	return n - gap
}

// services are carte's own servers: each by itself, or one word for all.
func (m *model) services(each bool) (parts []part) {
	services := m.snap().Services
	worst := cell.Running
	for _, name := range slices.Sorted(maps.Keys(services)) {
		mark := serviceMark(services[name])
		if mark == cell.Warn {
			worst = mark
		}
		parts = append(parts, part{dropService, mark.Style, name + " " + string(mark.Rune)})
	}
	if !each && len(services) > 0 {
		return []part{{dropService, worst.Style, "net " + string(worst.Rune)}}
	}
	return parts
}

func serviceMark(s lab.Service) cell.Mark {
	switch {
	case !s.OK:
		return cell.Warn
	case s.State == "off":
		return cell.Absent
	}
	return cell.Running
}

// counts says how many machines are in each state.
func (m *model) counts(rows []machineRow) (parts []part) {
	var n [conditions]int
	for _, r := range rows {
		n[r.cond]++
	}
	for _, c := range []condition{running, writing, booting, lost, failed, stuck, unknown} {
		if n[c] == 0 {
			continue
		}
		text := fmt.Sprintf("%d %s", n[c], short[c].word)
		if c <= unknown {
			text = string(short[c].mark.Rune) + text
			parts = append(parts, part{dropTrouble, short[c].mark.Style, text})
			continue
		}
		parts = append(parts, part{dropCount, short[c].mark.Style, text})
	}
	return parts
}

// drawTabs draws the second line.
func (m *model) drawTabs(g *cell.Grid) {
	crumbs := m.at.crumbs(m.snap())
	if m.unsaved() {
		crumbs += " *unsaved"
	}
	room := m.w - 2 - cell.Width(crumbs)
	x := 1
	for i, t := range tabs {
		text := fmt.Sprintf("%d %s", i+1, t.word)
		if x+len(text)+gap > room {
			text = fmt.Sprint(i + 1)
		}
		style := cell.Plain
		if t.at == m.at.tab() {
			style = cell.Bold
			g.Put(x, 1, style, '[')
			g.Put(x+1+len(text), 1, style, ']')
		}
		x += 1 + g.Text(x+1, 1, room, style, text) + gap
	}
	g.Right(m.w-1, 1, max(0, m.w-x-1), cell.Bold, crumbs)
}

// drawLast draws the last line: a question, what was just said, how far long work is, or the last command.
func (m *model) drawLast(g *cell.Grid) {
	y := m.h - 1
	switch {
	case m.sure != nil:
		lines := m.sure.words(m.w-2, max(1, min(4, m.h-2)))
		g.Blank(0, m.h-len(lines), m.w, len(lines))
		for i, l := range lines {
			g.Text(1, m.h-len(lines)+i, m.w-2, cell.Yellow, l)
		}
	case m.gone != nil && (m.flash.text == "" || !m.flash.at.After(m.word) || m.now.Sub(m.flash.at) >= flashTime):
		cause, remedy := m.whyGone()
		if remedy != "" {
			remedy += "  "
		}
		g.Text(1, y, m.w-2, cell.Yellow, fmt.Sprintf("%sq leaves  %s  asked again %s", remedy, cause, plural(m.tries, "time")))
	case m.flash.text != "" && m.now.Sub(m.flash.at) < flashTime:
		if lines := wrapped(m.flash.text, m.w-4); len(lines) > 1 && m.h > low {
			lines = lines[:min(3, len(lines))]
			g.Blank(0, m.h-len(lines), m.w, len(lines))
			g.Mark(1, m.h-len(lines), m.flash.mark)
			for i, l := range lines {
				g.Text(3, m.h-len(lines)+i, m.w-4, cell.Plain, l)
			}
			return
		}
		g.Mark(1, y, m.flash.mark)
		n := 3 + g.Text(3, y, m.w-4, cell.Plain, m.flash.text) + gap
		if m.flash.mark == cell.Done && m.command != "" && n+20 < m.w {
			g.Text(n, y, m.w-n-1, cell.Dim, "$ "+m.command)
		}
	case len(m.jobs) > 0:
		m.jobs[0].draw(g, 1, y, m.w-2, m.now)
	default:
		style := cell.Dim
		if m.command != "" {
			style = cell.Plain
		}
		g.Text(1, y, 2, cell.Dim, "$")
		g.Text(3, y, m.w-4, style, m.lineCommand())
	}
}

// lineCommand is the command of the last line: that of the last action, until the cursor or the place is another, then
// the one that shows what is under the cursor.
func (m *model) lineCommand() string {
	if m.command != "" {
		return m.command
	}
	t := m.target()
	id := "move.open"
	switch {
	case m.at.at == action.Log:
		id = "view.log"
	case m.at.at == action.Compose:
		id = "stack.check"
		if m.unsaved() {
			id = "compose.save"
		}
	case t.Machine.ID == 0 && t.Boot.ID == 0 && t.Image.Name == "" && t.Stack.Name == "":
		id = "view." + string(m.at.at)
	case m.at.at == action.Queue || m.at.at == action.Boot && t.Boot.ID != 0:
		t.Machine = lab.Machine{}
	}
	if a, ok := action.ByID(id); ok {
		return a.Command(t)
	}
	return "carte status"
}

// whyGone says why the lab cannot be reached, and what to do where that is known.
func (m *model) whyGone() (cause, remedy string) {
	cause, remedy, _ = strings.Cut(lab.Words(m.gone), "; ")
	return cause, remedy
}

func (m *model) goneWords() string {
	return fmt.Sprintf("▲ no word from the lab for %s …", ago(m.now, m.word))
}
