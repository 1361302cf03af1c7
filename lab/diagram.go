package lab

import (
	"fmt"
	"html"
	"slices"
	"strings"
	"unicode/utf8"
)

// A picture of a plan: its layers as they lie on one another, the one that wins at the top, and below them what starts.
// The same plan gives the same picture.

// drawn is one row of the picture.
type drawn struct{ name, what string }

// rows are the picture from the top.
func (p Plan) rows() (all []drawn) {
	if p.Form == FormTree {
		what := "memory, gone with the power"
		if p.Upper == UpperDisk {
			what = "the disk, made anew for every boot"
		}
		all = append(all, drawn{"changes", what})
	}
	if len(p.Files) > 0 {
		var names []string
		for _, f := range p.Files {
			names = append(names, f.Path)
		}
		all = append(all, drawn{"files", some(names)})
	}
	for _, l := range slices.Backward(p.Layers) {
		what := []string{l.Kind, string(l.Form), Bytes(l.Bytes)}
		if l.Kind == string(l.Form) {
			what = what[1:]
		}
		if l.Place != "" {
			what = append(what, "at "+l.Place)
		}
		if l.Back {
			what = append(what, "written back")
		}
		all = append(all, drawn{l.Ref.String(), strings.Join(what, ", ")})
	}
	return all
}

// notes are the lines below the picture.
func (p Plan) notes() (all []string) {
	by := map[Start]string{
		StartDisk: "starts from the disk", StartPivot: "starts under carte's own kernel", StartMemory: "starts in memory",
		StartNetboot: "starts by a kernel from the server", StartKexec: "starts by kexec",
	}[p.Start]
	if p.Auto && p.Start == StartKexec {
		by += ", or by a kernel from the server where that fails"
	}
	all = append(all, or(by, "starts nothing"))
	if p.Cmdline != "" {
		all = append(all, "kernel line: "+p.Cmdline)
	}
	var given, not []string
	for _, a := range p.Agreed {
		if a.Given {
			given = append(given, string(a.Clause))
		} else {
			not = append(not, string(a.Clause))
		}
	}
	if len(given) > 0 {
		all = append(all, "gives: "+strings.Join(given, ", "))
	}
	if len(not) > 0 {
		all = append(all, "does not give: "+strings.Join(not, ", "))
	}
	for i := range all {
		all[i] = cut(Clean(all[i]), 200)
	}
	return all
}

// Diagram draws the plan in text, with lines of ASCII where a terminal has no others.
func (p Plan) Diagram(ascii bool) string {
	corner := []string{"┌", "─", "┐", "│", "├", "┤", "└", "┘"}
	if ascii {
		corner = []string{"+", "-", "+", "|", "+", "+", "+", "+"}
	}
	rows := p.rows()
	var left, right int
	for _, r := range rows {
		left, right = max(left, utf8.RuneCountInString(r.name)), max(right, utf8.RuneCountInString(r.what))
	}
	line := func(a, b string) string { return a + strings.Repeat(corner[1], left+right+4) + b + "\n" }
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s\n", p.Stack, p.Fingerprint())
	b.WriteString(line(corner[0], corner[2]))
	for i, r := range rows {
		if i > 0 {
			b.WriteString(line(corner[4], corner[5]))
		}
		pad := func(s string, n int) string { return s + strings.Repeat(" ", n-utf8.RuneCountInString(s)) }
		b.WriteString(corner[3] + " " + pad(r.name, left) + "  " + pad(r.what, right) + " " + corner[3] + "\n")
	}
	b.WriteString(line(corner[6], corner[7]))
	for _, n := range p.notes() {
		b.WriteString("  " + n + "\n")
	}
	return b.String()
}

// Mermaid draws the plan as a flow chart of Mermaid, for a document.
func (p Plan) Mermaid() string {
	rows := p.rows()
	var b strings.Builder
	b.WriteString("flowchart BT\n")
	for i, r := range slices.Backward(rows) {
		fmt.Fprintf(&b, "  r%d[\"%s<br/>%s\"]\n", i, mermaid(r.name), mermaid(r.what))
	}
	fmt.Fprintf(&b, "  start([\"%s\"])\n", mermaid(strings.Join(p.notes(), "\n")))
	for i := len(rows) - 1; i > 0; i-- {
		fmt.Fprintf(&b, "  r%d --> r%d\n", i, i-1)
	}
	fmt.Fprintf(&b, "  start --> r%d\n", len(rows)-1)
	return b.String()
}

// mermaid writes text so that nothing in it is taken for the chart's own.
func mermaid(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n':
			b.WriteString("<br/>")
		case strings.ContainsRune("\"#<>&`\\[]{}()|;%", r):
			fmt.Fprintf(&b, "#%d;", r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// SVG draws the plan as a picture of its own, in one colour and without anything from elsewhere.
func (p Plan) SVG() string {
	const (
		letter, row, edge = 8, 30, 10 // in pixels: of a letter's width, of a layer's height, around all
	)
	rows, notes := p.rows(), p.notes()
	left, wide := 0, 0
	for _, r := range rows {
		left = max(left, utf8.RuneCountInString(r.name))
	}
	for _, r := range rows {
		wide = max(wide, left+2+utf8.RuneCountInString(r.what)+2)
	}
	title := p.Stack + "  " + p.Fingerprint()
	whole := max(wide, utf8.RuneCountInString(title))
	for _, n := range notes {
		whole = max(whole, utf8.RuneCountInString(n))
	}
	width, height := whole*letter+2*edge, (len(rows)+1)*row+len(notes)*20+2*edge
	var b strings.Builder
	fmt.Fprintf(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" font-family=\"monospace\" font-size=\"13\">\n", width, height, width, height)
	text := func(x, y int, more, s string) {
		fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\"%s xml:space=\"preserve\">%s</text>\n", x, y, more, html.EscapeString(s))
	}
	text(edge, edge+18, ` font-weight="bold"`, title)
	y := edge + row
	for _, r := range rows {
		fmt.Fprintf(&b, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"none\" stroke=\"black\"/>\n", edge, y, wide*letter, row)
		text(edge+letter, y+20, ` font-weight="bold"`, r.name)
		text(edge+(left+3)*letter, y+20, "", r.what)
		y += row
	}
	for _, n := range notes {
		y += 20
		text(edge, y, "", n)
	}
	b.WriteString("</svg>\n")
	return b.String()
}
