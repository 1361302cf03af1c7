package tui

import (
	"fmt"
	"strings"

	"carte/lab"
	"carte/tui/cell"
)

func (m *model) drawStacks(g *cell.Grid, r rect) {
	rows := m.stacks()
	l := m.list()
	at := l.settle(m.rowKeys())
	left, right := m.halves(r, len(rows))
	in := m.inside(g, left, fmt.Sprintf("Stacks %d", len(rows)), "")
	if len(m.x.snap.Stacks) == 0 {
		g.Text(in.x+margin, in.y+1, in.w-margin, cell.Bold, "No stacks yet.")
		g.Text(in.x+margin, in.y+2, in.w-margin, cell.Plain, "A stack is what a machine boots.  a makes one of a system image.")
		return
	}
	plan := func(s lab.Stack) lab.Plan { p, _ := m.x.snap.Resolve(s.Name); return p }
	name := 12
	for _, s := range rows {
		if m.changed(s.Name) {
			name = max(name, min(cell.Width(s.Name)+len(unsavedMark), 28))
		}
	}
	drawTable(g, in, []column[lab.Stack]{
		{"NAME", name, max(name, 20), 0, false, m.drawStackName},
		words("LAYERS", 16, 28, 1, func(s lab.Stack) string { return layerWords(s) }),
		words("FORM", 4, 4, 4, func(s lab.Stack) string { return string(plan(s).Form) }),
		figures("SIZE", 8, 2, func(s lab.Stack) string { return lab.Bytes(plan(s).Bytes()) }),
		words("STARTS BY", 9, 9, 5, func(s lab.Stack) string { return string(plan(s).Start) }),
		words("KERNEL LINE", 11, 30, 6, func(s lab.Stack) string { return s.Cmdline }),
	}, rows, l)
	if at >= 0 {
		d := m.pane0(g, right, rows[at].Name, "can it run here?")
		m.drawStack(g, d, rows[at])
	}
}

// unsavedMark stands behind a name where there is room for it.
const unsavedMark = " *unsaved"

// drawStackName draws a stack's name, with a mark while it is changed here and not saved.
func (m *model) drawStackName(g *cell.Grid, x, y, w int, s lab.Stack) {
	mark := ""
	if m.changed(s.Name) {
		if mark = unsavedMark; cell.Width(s.Name)+len(mark) > w {
			mark = " *"
		}
	}
	n := g.Text(x, y, w-len(mark), cell.Plain, s.Name)
	g.Text(x+n, y, w-n, cell.Yellow, mark)
}

// layerWords lists the layers, the top one first, as they lie over one another.
func layerWords(s lab.Stack) string {
	parts := make([]string, len(s.Layers))
	for i, l := range s.Layers {
		parts[len(parts)-1-i] = l.String()
	}
	return strings.Join(parts, " over ")
}

// drawStack says what a stack resolves to just now, and where it can run.
func (m *model) drawStack(g *cell.Grid, r rect, s lab.Stack) {
	y := r.y
	say := func(mark cell.Mark, text string) {
		for i, l := range wrapped(text, r.w-4) {
			if y >= r.y+r.h {
				return
			}
			if i == 0 && mark.Rune != 0 {
				g.Mark(r.x+1, y, mark)
			}
			g.Text(r.x+3, y, r.w-4, cell.Plain, l)
			y++
		}
	}
	p, err := m.x.snap.Resolve(s.Name)
	if err != nil {
		say(cell.Failed, err.Error())
		return
	}
	for _, l := range p.Layers {
		how := "newest"
		for _, ref := range s.Layers {
			if ref.Name == l.Ref.Name && ref.Version != 0 {
				how = "fixed"
			}
		}
		say(cell.Mark{}, fmt.Sprintf("%-8s %s (%s)  %s", l.Kind, l.Ref, how, lab.Bytes(l.Bytes)))
	}
	for _, mc := range m.x.snap.SortedMachines() {
		if mc.Standing == lab.Adopted {
			mark, text := fits(mc, p)
			say(mark, text)
		}
	}
	say(cell.Mark{}, "digest   "+p.Digest.String())
}

// fits says whether a machine has a disk that the plan may be written to.
func fits(mc lab.Machine, p lab.Plan) (cell.Mark, string) {
	var largest int64
	for _, a := range mc.Arms {
		largest = max(largest, a.Bytes)
	}
	switch {
	case len(mc.Arms) == 0:
		return cell.Failed, fmt.Sprintf("%s: no disk may be written; A on Machines arms one", mc.Label())
	case largest < p.Bytes():
		return cell.Failed, fmt.Sprintf("%s: its disk has %s, needs %s", mc.Label(), lab.Bytes(largest), lab.Bytes(p.Bytes()))
	}
	for _, h := range mc.Holds {
		for _, l := range p.Layers {
			if h.Root == l.Root && !h.Dirty {
				return cell.Done, fmt.Sprintf("%s: its disk holds %s already", mc.Label(), l.Ref)
			}
		}
	}
	return cell.Done, fmt.Sprintf("%s: fits its disk of %s", mc.Label(), lab.Bytes(largest))
}
