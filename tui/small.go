package tui

import (
	"fmt"

	"carte/tui/cell"
)

// drawSmall is what is left in a window that is too small for anything else: the machines, one a line, or what the place
// shows, and how to get help.
func (m *model) drawSmall(g *cell.Grid, rows []machineRow) {
	x := 0
	if m.gone != nil {
		x = g.Text(0, 0, m.w, cell.Yellow|cell.Reverse, m.goneWords()) + 1
	} else {
		x = g.Text(0, 0, m.w, cell.Bold, "carte ")
	}
	for _, p := range m.counts(rows) {
		if p.drop <= 2 || len(rows) < 100 {
			x += g.Text(x, 0, m.w-x, p.style, p.text) + 1
		}
	}
	if m.x != nil && len(m.x.waits) > 0 {
		g.Text(x, 0, m.w-x, cell.Plain, fmt.Sprintf("queue %d", len(m.x.waits)))
	}
	body := rect{0, 1, m.w, max(0, m.h-3)}
	if m.h < 5 {
		body.h = max(0, m.h-1)
	}
	if m.at.tab() == "machines" && m.at.at != "log" && m.at.at != "boot" {
		m.drawSmallMachines(g, body, m.keptMachines(rows))
	} else {
		m.drawBody(g, body, rows)
	}
	if m.h >= 5 {
		g.Blank(0, m.h-2, m.w, 2)
		if words := m.filterWords(); words != "" {
			g.Text(0, m.h-2, m.w, cell.Yellow, words)
		} else {
			g.Text(0, m.h-2, m.w, cell.Plain, "! what to do   ? help")
		}
		m.drawLast(g)
	}
}

func (m *model) drawSmallMachines(g *cell.Grid, r rect, rows []machineRow) {
	l := m.list()
	l.settle(machineKeys(rows))
	if len(rows) == 0 {
		text := "No machines yet."
		if len(m.snap().Machines) > 0 {
			text = "Nothing here has that. esc shows all."
		}
		g.Text(0, r.y, r.w, cell.Plain, text)
		return
	}
	h := r.h
	if len(rows) > h && h > 3 {
		h--
		g.Text(2, r.y+r.h-1, r.w, cell.Dim, fmt.Sprintf("%d more", len(rows)-h))
	}
	name := 0
	for _, row := range rows {
		name = max(name, min(cell.Width(row.label()), max(6, r.w/3)))
	}
	top := l.window(len(rows), h)
	for i := range min(h, len(rows)-top) {
		row, y := rows[top+i], r.y+i
		if top+i == l.at {
			g.Put(0, y, cell.Bold, '>')
		}
		g.Mark(1, y, row.mark)
		g.Text(3, y, name, cell.Plain, row.label())
		x := 4 + name
		x += g.Text(x, y, r.w-x, row.mark.Style, row.word) + 1
		if row.done >= 0 && row.cond != lost {
			x += g.Text(x, y, r.w-x, cell.Plain, fmt.Sprintf("%.0f%%", 100*row.done)) + 1
		}
		switch {
		case row.cond == lost:
			g.Text(x, y, r.w-x, cell.Plain, ago(m.asOf(), row.live.Seen))
		case row.left >= 0:
			g.Text(x, y, r.w-x, cell.Plain, span(row.left))
		case row.done < 0:
			g.Text(x, y, r.w-x, cell.Dim, row.now)
		}
		if top+i == l.at {
			g.Select(0, y, r.w)
		}
	}
}
