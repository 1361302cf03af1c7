package tui

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/charmbracelet/bubbles/cursor"
	"github.com/charmbracelet/bubbles/textinput"
	tea "github.com/charmbracelet/bubbletea"
	"github.com/charmbracelet/x/ansi"

	"carte/lab"
	"carte/tui/action"
	"carte/tui/cell"
)

// A line is a line of text that a person edits.
type line struct{ in textinput.Model }

// longest is the most letters that can be typed into a line.
const longest = 1000

func newLine() line {
	in := textinput.New()
	in.CharLimit = longest
	in.KeyMap.Paste.SetEnabled(false) // that would start a program
	in.Cursor.SetMode(cursor.CursorStatic)
	in.Focus()
	return line{in}
}

// oneLine makes one line of pasted text. Terminals send its line ends as CR; a shell's joined lines end in a backslash.
var oneLine = strings.NewReplacer("\\\r\n", " ", "\\\n", " ", "\\\r", " ", "\r\n", " ", "\n", " ", "\r", " ", "\t", " ")

func (l *line) press(p press) {
	if p.paste != "" {
		p.paste = lab.Clean(oneLine.Replace(p.paste))
	}
	l.in, _ = l.in.Update(p.message())
}

func (l *line) text() string { return lab.Clean(l.in.Value()) }

func (l *line) set(s string) {
	l.in.SetValue(s)
	l.in.CursorEnd()
}

// draw draws as much of the line as w cells have room for, with the cell of the cursor reversed.
func (l *line) draw(g *cell.Grid, x, y, w int) {
	runes := []rune(l.in.Value())
	before, under, after := string(runes[:l.in.Position()]), " ", ""
	if at := l.in.Position(); at < len(runes) {
		under, after = string(runes[at]), string(runes[at+1:])
	}
	for cell.Width(before) > w-2 && before != "" {
		before = string([]rune(before)[1:])
	}
	n := g.Text(x, y, w, cell.Plain, before)
	n += g.Text(x+n, y, w-n, cell.Plain|cell.Reverse, under)
	if after != "" {
		g.Text(x+n, y, w-n, cell.Plain, after)
	}
}

// box draws an empty box in the middle of the screen and returns its inside.
func box(g *cell.Grid, w, h int, title, right string) rect {
	sw, sh := g.Size()
	w, h = min(w, sw), min(h, sh)
	x, y := (sw-w)/2, max(0, min((sh-h)/2, 3))
	g.Blank(x-1, y, w+2, h)
	g.Box(x, y, w, h, cell.Plain, title, right)
	return rect{x + 2, y + 1, w - 4, h - 2}
}

// wrapped cuts a text into lines of at most w cells, at blanks where there are some.
func wrapped(text string, w int) (lines []string) {
	w = max(w, 1)
	for _, para := range strings.Split(text, "\n") {
		now := ""
		for _, word := range strings.Fields(para) {
			if now != "" && cell.Width(now)+1+cell.Width(word) > w {
				lines, now = append(lines, now), ""
			}
			for cell.Width(word) > w {
				r := []rune(word)
				n := min(w, len(r))
				lines, word = append(lines, string(r[:n])), string(r[n:])
			}
			if now != "" {
				now += " "
			}
			now += word
		}
		lines = append(lines, now)
	}
	return lines
}

// An ask is a question: a line to type, or answers to choose from, which typing narrows.
type ask struct {
	question string
	options  []string
	at       int
	line     line
	preview  func(string) string // the shell command that the answer makes
	do       func(string) tea.Cmd
	at0      place  // where it was asked
	refused  string // why what was typed last was refused
	tried    bool   // something was refused; it is no command of this place
	found    []string
	files    bool // the first word is a file's name, which tab completes
	empty    bool // nothing is an answer, too
}

func newAsk(question string, options []string, preview func(string) string, do func(string) tea.Cmd) *ask {
	return &ask{question: question, options: options, line: newLine(), preview: preview, do: do}
}

// shown are the answers that fit what was typed.
func (a *ask) shown() (list []string) {
	for _, o := range a.options {
		if strings.Contains(strings.ToLower(o), strings.ToLower(a.line.text())) {
			list = append(list, o)
		}
	}
	return list
}

func (a *ask) answer() string {
	if list := a.shown(); len(list) > 0 {
		return list[max(0, min(a.at, len(list)-1))]
	}
	return strings.TrimSpace(a.line.text())
}

func (a *ask) press(m *model, p press) tea.Cmd {
	switch p.name {
	case "esc":
		m.over = nil
		if a.tried {
			m.command, m.flash = "", flash{}
		}
	case "tab", "down", "up", "shift+tab":
		if a.files {
			text, found := completed(a.line.text())
			a.line.set(text)
			a.found = found
			return nil
		}
		a.choose(p.name)
	case "enter":
		text := a.answer()
		if text == "" && !a.empty {
			return nil
		}
		m.over = nil
		return a.do(text)
	default:
		was := a.line.text()
		a.line.press(p)
		a.at, a.found = 0, nil
		if a.refused != "" && a.line.text() != was { // it was said of another answer
			a.refused, m.flash = "", flash{}
		}
	}
	return nil
}

// choose moves among the answers.
func (a *ask) choose(key string) {
	by := 1
	if key == "up" || key == "shift+tab" {
		by = -1
	}
	a.at = max(0, min(a.at+by, len(a.shown())-1))
}

// again asks once more what was refused, with what was typed, unless the person is elsewhere by now.
func (a *ask) again(m *model, err error) {
	if a == nil || m.over != nil || m.sure != nil || m.at != a.at0 {
		return
	}
	a.refused, a.tried = lab.Words(err), true
	m.over = a
}

// completed completes a file's name as far as the files that begin so agree, and names these.
func completed(typed string) (text string, names []string) {
	if strings.Contains(typed, " ") {
		return typed, nil
	}
	dir, base := filepath.Split(typed)
	list, err := os.ReadDir(cmp.Or(dir, "."))
	if err != nil {
		return typed, nil
	}
	common := ""
	for _, e := range list {
		name := e.Name()
		if !strings.HasPrefix(name, base) || base == "" && name[0] == '.' {
			continue
		}
		if e.IsDir() {
			name += "/"
		}
		if len(names) == 0 {
			common = name
		}
		for !strings.HasPrefix(name, common) {
			r := []rune(common)
			common = string(r[:len(r)-1])
		}
		names = append(names, name)
	}
	if len(names) == 0 {
		return typed, nil
	}
	return dir + common, names
}

func (a *ask) draw(m *model, g *cell.Grid) {
	w := min(m.w, 76)
	question := wrapped(a.question, w-4)
	list := a.shown()
	var below []styled
	if a.refused != "" {
		for _, l := range wrapped(a.refused, w-4) {
			below = append(below, styled{cell.Red, l})
		}
	}
	if len(a.found) > 1 {
		for _, l := range rowsOf(a.found[:min(len(a.found), 12)], w-4) {
			below = append(below, styled{cell.Dim, l})
		}
	}
	h := 4 + len(question) + min(len(list), 8) + len(below)
	r := box(g, w, h, "", "enter does it  esc leaves it")
	for i, q := range question {
		g.Text(r.x, r.y+i, r.w, cell.Bold, q)
	}
	y := r.y + len(question)
	g.Text(r.x, y, 2, cell.Dim, ">")
	a.line.draw(g, r.x+2, y, r.w-2)
	first := max(0, a.at-7)
	for i, o := range list[first:min(len(list), first+8)] {
		g.Text(r.x+2, y+1+i, r.w-2, cell.Plain, o)
		if first+i == a.at {
			g.Put(r.x, y+1+i, cell.Bold, '>')
			g.Select(r.x, y+1+i, r.w)
		}
	}
	y += 1 + min(len(list), 8)
	for i, l := range below {
		g.Text(r.x, y+i, r.w, l.style, l.text)
	}
	g.Text(r.x, r.y+r.h-1, r.w, cell.Dim, "$ "+a.preview(a.answer()))
}

// A confirm stands before something is destroyed: no comes first, and the name must be typed (tier 2).
type confirm struct {
	words, loses, name string
	line               line
	do                 func(string) tea.Cmd
}

func newConfirm(words, loses, name string, do func(string) tea.Cmd) *confirm {
	return &confirm{words, loses, name, newLine(), do}
}

func (c *confirm) press(m *model, p press) tea.Cmd {
	switch p.name {
	case "esc":
		m.over = nil
		m.say(cell.Absent, "nothing was done")
	case "enter":
		m.over = nil
		if c.line.text() != c.name {
			m.say(cell.Absent, "nothing was done: %q is not %s", c.line.text(), c.name)
			return nil
		}
		return c.do(c.name)
	default:
		c.line.press(p)
	}
	return nil
}

func (c *confirm) draw(m *model, g *cell.Grid) {
	w := min(m.w, 72)
	lines := wrapped(c.loses, w-4)
	r := box(g, w, 7+len(lines), c.words, "this cannot be undone")
	y := r.y + 1
	for _, l := range lines {
		g.Text(r.x, y, r.w, cell.Red, l)
		y++
	}
	g.Text(r.x, y+1, r.w, cell.Plain, "Cancel        esc, or enter with nothing typed")
	n := g.Text(r.x, y+2, r.w, cell.Plain, fmt.Sprintf("Go on         type %s: ", c.name))
	c.line.draw(g, r.x+n, y+2, r.w-n)
}

// A find edits the filter of a place while its effect is seen.
type find struct {
	line line
	was  string
}

func newFind(m *model) *find {
	f := &find{newLine(), m.filters[m.at].text}
	f.line.set(f.was)
	return f
}

func (f *find) press(m *model, p press) tea.Cmd {
	switch p.name {
	case "esc":
		m.over = nil
		m.setFilter("")
		return nil
	case "enter":
		m.over = nil
		return nil
	case "up", "down":
		return m.move(map[string]int{"up": -1, "down": 1}[p.name])
	}
	f.line.press(p)
	m.setFilter(f.line.text())
	return nil
}

// draw takes the line of the hints.
func (f *find) draw(m *model, g *cell.Grid) {
	y := max(0, m.h-2)
	g.Blank(0, y, m.w, 1)
	n := g.Text(1, y, m.w-1, cell.Bold, "/")
	right := m.found()
	g.Right(m.w-1, y, m.w/2, cell.Dim, right)
	f.line.draw(g, 1+n, y, max(0, m.w-4-cell.Width(right)))
}

// setFilter changes what the place shows.
func (m *model) setFilter(text string) {
	if text == "" {
		delete(m.filters, m.at)
	} else {
		m.filters[m.at] = parseFilter(text)
	}
	m.log.sift(m.filters[m.at], m.at.at == action.Log || m.at.at == action.Boot)
}

// A pager shows text of more than one line until a key is pressed that does not move it.
type pager struct {
	title string
	lines []string
	top   int
	left  int // cells of each line that are out of sight
}

func newPager(title, text string) *pager {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return &pager{title: title, lines: lines}
}

func (v *pager) press(m *model, p press) tea.Cmd {
	switch p.name {
	case "j", "down":
		v.top++
	case "k", "up":
		v.top--
	case "ctrl+d", "pgdown", " ":
		v.top += m.h / 2
	case "ctrl+u", "pgup":
		v.top -= m.h / 2
	case "g", "home":
		v.top = 0
	case "G", "end":
		v.top = len(v.lines)
	case "l", "right":
		v.left += max(1, m.w/2)
	case "h", "left":
		v.left -= max(1, m.w/2)
	default:
		m.over = nil
	}
	return nil
}

func (v *pager) draw(m *model, g *cell.Grid) {
	h := min(len(v.lines)+2, max(3, m.h-4))
	longest := 0
	for _, l := range v.lines {
		longest = max(longest, cell.Width(l))
	}
	w := min(max(cell.Width(v.title)+24, longest+4), m.w)
	keys := ""
	if longest > w-4 {
		keys = "h l "
	}
	if len(v.lines) > h-2 {
		keys += "j k "
	}
	if keys != "" {
		keys += "move  "
	}
	r := box(g, w, h, v.title, keys+"esc closes")
	v.top = max(0, min(v.top, len(v.lines)-r.h))
	v.left = max(0, min(v.left, longest-r.w))
	for i := range min(r.h, len(v.lines)-v.top) {
		l := v.lines[v.top+i]
		g.Text(r.x, r.y+i, r.w, cell.Plain, ansi.Cut(l, v.left, max(v.left, cell.Width(l))))
	}
}
