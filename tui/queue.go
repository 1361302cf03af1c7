package tui

import (
	"fmt"

	"carte/lab"
	"carte/tui/cell"
)

// drawQueue draws what runs and what waits, and for the selected row why.
func (m *model) drawQueue(g *cell.Grid, r rect) {
	rows := m.queueRows()
	l := m.list()
	keys := m.rowKeys()
	at := l.settle(keys)
	slots := m.x.slots(m.asOf())
	detail := 5
	if r.h < 14 {
		detail = 3
	}
	top := rect{r.x, r.y, r.w, r.h - detail}
	if m.boxed() {
		right := ""
		if d, ok := m.x.left(m.asOf()); ok {
			right = "all done about " + m.asOf().Add(d).Format("15:04")
		}
		g.Box(top.x, top.y, top.w, top.h, cell.Dim, fmt.Sprintf("Queue %d", len(rows)), right)
		top = rect{r.x + 1, r.y + 1, r.w - 2, top.h - 2}
	} else if need := len(rows) + 1; need < top.h {
		top.h = max(need, 4)
	}
	if len(m.x.busy)+len(m.x.waits) == 0 {
		g.Text(top.x+margin, top.y+1, top.w-margin, cell.Plain, "Nothing queued.  b on a machine or a stack boots one.")
		return
	}
	drawTable(g, top, m.queueColumns(slots), rows, l)
	if at < 0 {
		return
	}
	b := rows[at]
	in := m.pane0(g, rect{r.x, r.y + r.h - detail, r.w, detail}, fmt.Sprintf("boot %d", b.ID), "")
	if !m.boxed() {
		g.Blank(r.x, r.y+r.h-detail, r.w, detail)
		in = m.pane0(g, rect{r.x, top.y + top.h, r.w, detail}, fmt.Sprintf("boot %d", b.ID), "")
	}
	m.drawWhy(g, in, b)
}

func (m *model) queueColumns(slots map[int64]slot) []column[lab.Boot] {
	clock := func(b lab.Boot, end bool) string {
		s, ok := slots[b.ID]
		switch {
		case !end && b.State != lab.Queued:
			return "now"
		case !ok || !s.known:
			return "—"
		case end:
			return m.asOf().Add(s.end).Format("15:04")
		}
		return m.asOf().Add(s.start).Format("15:04")
	}
	return []column[lab.Boot]{
		figures("#", 4, 0, func(b lab.Boot) string { return fmt.Sprint(b.ID) }),
		words("MACHINE", 8, 12, 0, func(b lab.Boot) string { return m.who(b.Machine) }),
		words("STACK", 12, 20, 1, func(b lab.Boot) string { return b.Plan.Stack }),
		{"STATE", 10, 10, 0, false, func(g *cell.Grid, x, y, w int, b lab.Boot) {
			mark := bootMark(b)
			g.Mark(x, y, mark)
			g.Text(x+2, y, w-2, mark.Style, string(b.State))
		}},
		words("START", 6, 6, 4, func(b lab.Boot) string { return clock(b, false) }),
		words("END", 6, 6, 4, func(b lab.Boot) string { return clock(b, true) }),
		figures("SIZE", 8, 5, func(b lab.Boot) string { return lab.Bytes(b.Moved.Total) }),
		words("WHY THERE", 20, 60, 6, func(b lab.Boot) string { return m.x.reason(b) }),
	}
}

// bootMark is the mark of a boot's state.
func bootMark(b lab.Boot) cell.Mark {
	switch b.State {
	case lab.Working:
		return cell.Writing
	case lab.Starting, lab.Handover:
		return cell.Booting
	case lab.Running:
		return cell.Running
	case lab.Done:
		return cell.Done
	case lab.Failed:
		return cell.Failed
	case lab.Revoked:
		return cell.Absent
	}
	return cell.Idle
}

// drawWhy says why a boot is where it is.
func (m *model) drawWhy(g *cell.Grid, r rect, b lab.Boot) {
	var lines []string
	if b.State == lab.Queued {
		lines = append(lines, "waits: "+m.x.reason(b))
		if b.Reason != "" {
			lines = append(lines, "was:   "+b.Reason)
		}
		lines = append(lines, fmt.Sprintf("since %s, place %d in the queue of %s", day(m.asOf(), b.Queued), m.queuePlace(b), m.who(b.Machine)))
	} else {
		mc := m.x.snap.Machines[b.Machine]
		st := stateOf(m.x, mc, m.asOf())
		since := fmt.Sprintf("%s since %s, attempt %d", st.word, day(m.asOf(), b.Since), b.Attempt)
		if u := m.x.usualOf(b.Machine, b.Plan.Stack); u.n < fewBoots && st.left < 0 {
			since += "; " + pastWords(u)
		}
		lines = append(lines, since)
		if b.Reason != "" {
			lines = append(lines, b.Reason)
		}
	}
	y := r.y
	for _, l := range lines {
		for _, part := range wrapped(l, r.w-2) {
			if y < r.y+r.h {
				g.Text(r.x+1, y, r.w-2, cell.Plain, part)
				y++
			}
		}
	}
}

func (m *model) queuePlace(b lab.Boot) int {
	for i, x := range m.x.queue[b.Machine] {
		if x.ID == b.ID {
			return i + 1
		}
	}
	return 0
}
