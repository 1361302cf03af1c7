package tui

import (
	"fmt"
	"strings"

	"carte/tui/action"
	"carte/tui/cell"
)

// drawNeeds lists what needs a person, with a card for the selected thing: what, what it means, what to do.
func (m *model) drawNeeds(g *cell.Grid, r rect) {
	list := m.alerts()
	if len(list) == 0 {
		g.Mark(r.x+1, r.y+1, cell.Done)
		g.Text(r.x+margin, r.y+1, r.w-margin, cell.Bold, "Nothing needs you.")
		m.drawTold(g, rect{r.x + margin, r.y + 3, r.w - margin, r.h - 3})
		return
	}
	keys := make([]string, len(list))
	for i, a := range list {
		keys[i] = a.key
	}
	l := m.list()
	at := l.settle(keys)
	left, right := rect{r.x, r.y, r.w, min(len(list), max(3, r.h/3))}, rect{}
	right = r.down(left.h)
	if m.boxed() {
		left.w, left.h = 50, r.h
		right = rect{r.x + 50, r.y, r.w - 50, r.h}
		left = m.pane0(g, left, fmt.Sprintf("Needs you %d", len(list)), "")
	}
	top := l.window(len(list), left.h)
	for i := range min(left.h, len(list)-top) {
		a, y := list[top+i], left.y+i
		g.Mark(left.x+3, y, a.mark)
		n := g.Text(left.x+5, y, 12, cell.Bold, a.who)
		g.Right(left.x+left.w-1, y, 6, cell.Plain, ago(m.asOf(), a.since))
		g.Text(left.x+5+max(n, 10)+2, y, left.w-max(n, 10)-16, cell.Plain, a.what)
		if top+i == at {
			g.Put(left.x+1, y, cell.Bold, '>')
			g.Select(left.x, y, left.w)
		}
	}
	m.drawCard(g, m.pane0(g, right, list[at].who+" "+list[at].what, ""), list[at])
}

// drawCard explains one alert.
func (m *model) drawCard(g *cell.Grid, r rect, a alert) {
	y := r.y
	for _, s := range a.says {
		for i, l := range wrapped(s.text, r.w-11) {
			if y >= r.y+r.h {
				return
			}
			if i == 0 {
				g.Text(r.x+1, y, 8, cell.Dim, s.word)
			}
			g.Text(r.x+9, y, r.w-10, cell.Plain, l)
			y++
		}
	}
	t := m.target()
	y++
	for _, x := range action.At(action.Machines) {
		if a.machine == 0 || !relevant[x.ID] || y >= r.y+r.h {
			continue
		}
		if can, _ := x.Can(t); can {
			g.Text(r.x+3, y, 2, cell.Bold, keyWord(x.Keys[0]))
			g.Text(r.x+9, y, r.w-10, cell.Plain, m.hintWord(x))
			g.Text(r.x+18, y, r.w-19, cell.Dim, x.Command(t))
			y++
		}
	}
	m.drawTold(g, rect{r.x + 1, y + 1, r.w - 2, r.y + r.h - y - 1})
}

// relevant are the actions that help a machine out of trouble.
var relevant = map[string]bool{
	"boot.retry": true, "machine.power": true, "machine.adopt": true, "machine.ignore": true, "boot.stop": true, "view.log": true,
}

// drawTold repeats what the last line said, the newest first.
func (m *model) drawTold(g *cell.Grid, r rect) {
	if r.h < 3 || len(m.told) == 0 {
		return
	}
	g.Text(r.x, r.y, r.w, cell.Dim, "Said before")
	y := r.y + 1
	for i := len(m.told) - 1; i >= 0 && y < r.y+r.h; i-- {
		f := m.told[i]
		for j, l := range wrapped(f.text, r.w-11) {
			if y >= r.y+r.h {
				return
			}
			if j == 0 {
				g.Text(r.x, y, 5, cell.Dim, f.at.Format("15:04"))
				g.Mark(r.x+6, y, f.mark)
			}
			g.Text(r.x+8, y, r.w-8, cell.Plain, strings.TrimSpace(l))
			y++
		}
	}
}
