package tui

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"carte/lab"
	"carte/tui/cell"
)

func sortedNames[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// drawCompose draws a stack that is put together: its layers, whether it can run, and in a wide window what its kinds
// promise.
func (m *model) drawCompose(g *cell.Grid, r rect) {
	d := m.composed()
	if d == nil {
		return
	}
	left := r
	if m.boxed() {
		left.w = r.w * 3 / 5
		m.drawPromises(g, rect{r.x + left.w, r.y, r.w - left.w, r.h}, d)
	}
	rows := m.layerRows()
	l := m.list()
	l.settle(m.rowKeys())
	h := len(rows) + 1
	if m.boxed() {
		h += 2
	}
	h = min(max(h, 3), max(3, left.h/2))
	in := m.inside(g, rect{left.x, left.y, left.w, h}, "Layers, top wins", "J/K moves one")
	if len(d.st.Layers) == 0 {
		g.Text(in.x+margin, in.y, in.w-margin, cell.Bold, "No images yet. a adds one: the system first.")
	} else {
		drawTable(g, in, m.layerColumns(), rows, l)
	}
	m.drawCheck(g, left.down(h), d)
}

func (m *model) layerColumns() []column[layerRow] {
	return []column[layerRow]{
		words("TYPE", 9, 9, 1, func(r layerRow) string { return r.im.Kind }),
		words("IMAGE", 12, 16, 0, func(r layerRow) string { return r.ref.Name }),
		words("VERSION", 11, 11, 2, versionOf),
		figures("ADDS", 8, 3, func(r layerRow) string {
			if r.v.Number == 0 {
				return "missing"
			}
			return lab.Bytes(r.v.Content)
		}),
		words("CONTRACT", 16, 60, 4, m.promise),
	}
}

// versionOf says at which version a layer is, and whether it stays there.
func versionOf(r layerRow) string {
	switch {
	case r.v.Number == 0:
		return "gone"
	case r.joins != "":
		return fmt.Sprintf("v%d auto", r.v.Number)
	case r.ref.Version == 0:
		return fmt.Sprintf("v%d newest", r.v.Number)
	}
	return fmt.Sprintf("v%d fixed", r.v.Number)
}

// promise says in a few words what a layer's contract comes to in this stack.
func (m *model) promise(r layerRow) string {
	var parts []string
	if r.joins != "" {
		return "joins by itself on " + r.joins
	}
	if b, ok := m.snap().BadgeOf(r.v); ok {
		parts = append(parts, "tested: "+b.Word())
	}
	if r.ref.Version != 0 && r.im.Latest > r.ref.Version {
		parts = append(parts, fmt.Sprintf("v%d exists", r.im.Latest))
	}
	if !r.im.Dies.IsZero() {
		parts = append(parts, "dies "+day(m.asOf(), r.im.Dies))
	}
	switch {
	case r.im.Form == lab.FormKernel:
		parts = append(parts, "brings the kernel")
	case r.v.Place != "" && r.v.Place != "/":
		parts = append(parts, "at "+r.v.Place)
	case r.im.Kind == "project" && r.im.Form == lab.FormFiles:
		parts = append(parts, "at "+lab.ProjectPlace)
	}
	for _, c := range lab.Clauses {
		if n, ok := r.v.Offers[c.Clause]; ok && n == lab.Required {
			parts = append(parts, "needs "+string(c.Clause))
		} else if ok {
			parts = append(parts, string(c.Clause))
		}
	}
	if len(parts) == 0 {
		parts = append(parts, m.rule(r.im.Kind))
	}
	return strings.Join(parts, ", ")
}

// A said is one line of a check.
type said struct {
	mark  cell.Mark
	style cell.Style
	text  string
	whole bool // it is wrapped and not cut
}

var gradeMarks = map[lab.Grade]cell.Mark{lab.GradeGood: cell.Done, lab.GradeWarn: cell.Warn, lab.GradeStop: cell.Failed}

// checkLines are what the check says: what stops a boot first, then what warns, then what each machine comes to, then
// what is as it should be.
func checkLines(j lab.Judged) (all []said) {
	add := func(where string, grade lab.Grade, remarks []lab.Remark) {
		for _, r := range remarks {
			if r.Grade != grade {
				continue
			}
			text := where + r.Text
			switch {
			case r.Edited != nil && grade != lab.GradeGood:
				text += " (f mends it)"
			case r.Fix != "" && grade == lab.GradeStop && !strings.Contains(r.Text, r.Fix):
				text += " (" + r.Fix + ")"
			}
			all = append(all, said{gradeMarks[grade], gradeMarks[grade].Style & cell.Bold, text, grade != lab.GradeGood})
		}
	}
	add("", lab.GradeStop, j.Remarks)
	add("", lab.GradeWarn, j.Remarks)
	for _, mc := range j.Machines {
		if mc.OK {
			all = append(all, said{mark: cell.Done, text: mc.Machine + ": " + machineWords(mc)})
			add(mc.Machine+": ", lab.GradeWarn, mc.Remarks)
		} else {
			add(mc.Machine+": ", lab.GradeStop, mc.Remarks)
		}
	}
	add("", lab.GradeGood, j.Remarks)
	return all
}

// machineWords says what a boot would come to on a machine.
func machineWords(mc lab.JudgedMachine) string {
	text := "all of it lies there"
	if mc.Moves > 0 {
		text = "at most " + lab.Bytes(mc.Moves) + " to move"
	}
	if mc.Start != "" {
		text += ", by " + string(mc.Start)
	}
	if mc.Ready > 0 {
		return text + fmt.Sprintf(", ready in about %.0f s", mc.Ready)
	}
	return text + ", how long is not known yet"
}

// drawCheck draws whether the stack can run, and at its end what it would start with.
func (m *model) drawCheck(g *cell.Grid, r rect, d *composing) {
	right := "runs as you edit"
	if d.checking() {
		right = "checking …"
	}
	in := m.pane0(g, r, "Can it run here?", right)
	foot := m.stackFoot(d)
	if in.h < len(foot)+4 {
		foot = foot[len(foot)-1:]
	}
	if in.h < 3 {
		foot = nil
	}
	body := rect{in.x, in.y, in.w, in.h - len(foot)}
	lines := checkLines(d.judged)
	if d.err != nil {
		lines = []said{{cell.Failed, cell.Plain, lab.Words(d.err), true}}
	}
	y := body.y
	for i, l := range lines {
		parts := []string{l.text}
		if l.whole {
			parts = wrapped(l.text, body.w-4)
		}
		room := body.y + body.h - y
		if left := len(lines) - i; len(parts) > room || left > 1 && len(parts) >= room {
			g.Text(body.x+3, y, body.w-4, cell.Dim, fmt.Sprintf("… %d more: carte stack check %s", left, d.st.Name))
			break
		}
		g.Mark(body.x+1, y, l.mark)
		for _, p := range parts {
			g.Text(body.x+3, y, body.w-4, l.style, p)
			y++
		}
	}
	for i, l := range foot {
		g.Text(in.x+1, in.y+in.h-len(foot)+i, in.w-2, l.style, l.text)
	}
}

// stackFoot are the lines below a check: the kernel line, the parameters, what it would weigh, the fingerprint.
func (m *model) stackFoot(d *composing) (lines []styled) {
	if d.st.Cmdline != "" {
		lines = append(lines, styled{cell.Plain, "kernel line  " + d.st.Cmdline})
	}
	var params []string
	for _, k := range sortedNames(d.st.Params) {
		params = append(params, k+" = "+d.st.Params[k])
	}
	if len(params) > 0 {
		lines = append(lines, styled{cell.Plain, "parameters   " + strings.Join(params, "   ")})
	}
	print := d.judged.Fingerprint
	if print == "" || d.checking() {
		print = "—"
	}
	text := "fingerprint  " + print
	if m.unsaved() {
		text += "   not saved yet: s"
	}
	return append(lines, styled{cell.Plain, text})
}

// drawPromises draws what each kind promises, and what became of the clauses.
func (m *model) drawPromises(g *cell.Grid, r rect, d *composing) {
	in := m.pane0(g, r, "Guarantees", "")
	y := in.y
	kinds := m.snap().AllKinds()
	const label, each = 19, 5
	fits := max(0, min(len(kinds), (in.w-label-1)/each))
	for i, k := range kinds[:fits] {
		g.Text(in.x+label+each*i, y, each-1, cell.Dim, k.Name[:min(each-1, len(k.Name))])
	}
	for _, row := range []struct {
		word string
		has  func(lab.Kind) bool
	}{
		{"versioned", func(k lab.Kind) bool { return k.Versioned }},
		{"checksummed", func(k lab.Kind) bool { return k.Checksummed }},
		{"joins by itself", func(k lab.Kind) bool { return k.Joins }},
		{"updates by itself", func(k lab.Kind) bool { return k.Updates }},
		{"shared", func(k lab.Kind) bool { return k.Shared }},
		{"written back", func(k lab.Kind) bool { return k.WrittenBack != "never" }},
		{"dies at a date", func(k lab.Kind) bool { return k.Lifetime == "date" }},
	} {
		y++
		g.Text(in.x+1, y, label-1, cell.Plain, row.word)
		for i, k := range kinds[:fits] {
			mark := cell.Absent
			if row.has(k) {
				mark = cell.Done
			}
			g.Mark(in.x+label+each*i+1, y, mark)
		}
	}
	y += 2
	say := func(style cell.Style, indent int, text string) {
		for _, l := range wrapped(text, in.w-2-indent) {
			if y < in.y+in.h {
				g.Text(in.x+1+indent, y, in.w-2-indent, style, l)
			}
			y++
		}
	}
	if y < in.y+in.h {
		g.Text(in.x+1, y, label-1, cell.Dim, "clauses")
		g.Text(in.x+label+1, y, 9, cell.Dim, "asked")
		g.Text(in.x+label+11, y, 6, cell.Dim, "given")
	}
	y++
	for _, c := range lab.Clauses {
		a, asked := agreedOf(d.judged.Agreed, c.Clause)
		need, mark := "·", cell.Absent
		if asked {
			need = string(a.Need)
		}
		if a.Given {
			mark = cell.Done
		}
		if y < in.y+in.h {
			g.Text(in.x+1, y, label-1, cell.Plain, string(c.Clause))
			g.Text(in.x+label+1, y, 9, cell.Plain, need)
			g.Mark(in.x+label+11, y, mark)
		}
		y++
		if asked && !a.Given {
			say(cell.Dim, 2, a.Why)
		}
	}
	y++
	if words := m.sameAs(d.st); words != "" {
		say(cell.Plain, 0, words)
	}
	y++
	say(cell.Plain, 0, "Provide what you can, reject what you must: ✗ stops a boot, ▲ does not.")
}

func agreedOf(all []lab.Agreed, c lab.Clause) (lab.Agreed, bool) {
	for _, a := range all {
		if a.Clause == c {
			return a, true
		}
	}
	return lab.Agreed{}, false
}

// sameAs names a stack that differs in no more than one image, and how.
func (m *model) sameAs(st lab.Stack) string {
	for _, o := range m.snap().SortedStacks() {
		if o.Name == st.Name || len(o.Layers) != len(st.Layers) || len(st.Layers) < 2 || o.Cmdline != st.Cmdline {
			continue
		}
		var differ []string
		for i, r := range st.Layers {
			if r != o.Layers[i] {
				differ = append(differ, fmt.Sprintf("%s -> %s", o.Layers[i], r))
			}
		}
		if len(differ) == 1 {
			return fmt.Sprintf("Same as stack %s except %s", o.Name, differ[0])
		}
	}
	return ""
}
