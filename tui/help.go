package tui

import (
	"fmt"
	"slices"
	"strings"

	tea "github.com/charmbracelet/bubbletea"

	"carte/tui/action"
	"carte/tui/cell"
)

// A help shows every action of a place, made from the table. Typing finds, by words or by key; enter does.
type help struct {
	at   string
	acts []action.Action
	t    action.Target
	line line
	sel  int
	page int // lines on a page, as drawn last
	word func(action.Action) string
}

func newHelp(m *model) *help {
	h := &help{at: string(m.at.at), t: m.target(), line: newLine(), word: m.hintWord}
	for _, a := range action.At(m.actions()) {
		if len(a.Keys) > 0 {
			h.acts = append(h.acts, a)
		}
	}
	return h
}

// group is which of the three groups an action belongs to.
func (h *help) group(a action.Action) int {
	switch {
	case a.Moves():
		return 2
	case slices.Contains(a.Where, action.Everywhere):
		return 1
	}
	return 0
}

// shown are the actions that fit what was typed, by groups.
func (h *help) shown() (list []action.Action) {
	typed := strings.TrimSpace(h.line.text())
	f := parseFilter(typed)
	for group := range 3 {
		for _, a := range h.acts {
			if h.group(a) == group && (slices.Contains(a.Keys, typed) || f.keeps(a.Words+" "+a.Help, nil)) {
				list = append(list, a)
			}
		}
	}
	return list
}

func (h *help) press(m *model, p press) tea.Cmd {
	list := h.shown()
	switch p.name {
	case "esc", "?", "f1":
		m.over = nil
	case "up":
		h.sel = max(0, h.sel-1)
	case "down", "tab":
		h.sel = max(0, min(h.sel+1, len(list)-1))
	case "pgdown", "ctrl+d":
		h.turn(list, 1)
	case "pgup", "ctrl+u":
		h.turn(list, -1)
	case "home":
		h.sel = 0
	case "end":
		h.sel = max(0, len(list)-1)
	case "enter":
		m.over = nil
		if h.sel < len(list) {
			a := list[h.sel]
			return m.begin(a, m.target(), a.Keys[0])
		}
	default:
		h.line.press(p)
		h.sel = 0
	}
	return nil
}

var groups = [3]string{"HERE", "EVERYWHERE", "MOVE"}

func (h *help) draw(m *model, g *cell.Grid) {
	list := h.shown()
	r := box(g, min(m.w, 110), min(m.h, max(16, m.h-4)), "Help: "+h.at, "type to find  enter does it  esc closes")
	n := g.Text(r.x, r.y, 6, cell.Dim, "find: ")
	h.line.draw(g, r.x+n, r.y, r.w-n)
	about := 6 // lines about the selected action
	rows := r.h - 2 - about
	if rows < 3 {
		about, rows = 0, r.h-2
	}
	h.drawList(g, rect{r.x, r.y + 2, r.w, rows}, list)
	if len(list) == 0 {
		g.Text(r.x, r.y+2, r.w, cell.Plain, "nothing is called that")
	}
	if about > 0 && h.sel < len(list) {
		h.drawAbout(g, rect{r.x, r.y + r.h - about, r.w, about}, list[h.sel])
	}
}

// An entry is one line of the list: an action by its place in it, or the head of a group, or a blank.
type entry struct {
	head string
	act  int // -1: none
}

// entries are the lines of a list of actions.
func (h *help) entries(list []action.Action) (all []entry) {
	last := -1
	for i, a := range list {
		if group := h.group(a); group != last {
			if last >= 0 {
				all = append(all, entry{"", -1})
			}
			all = append(all, entry{groups[group], -1})
			last = group
		}
		all = append(all, entry{"", i})
	}
	return all
}

// turn selects the first action of the page that lies by pages further.
func (h *help) turn(list []action.Action, by int) {
	all := h.entries(list)
	at := slices.IndexFunc(all, func(e entry) bool { return e.act == h.sel })
	if at < 0 || h.page <= 0 {
		return
	}
	from := max(0, (at/h.page+by)*h.page)
	if from >= len(all) {
		h.sel = len(list) - 1
		return
	}
	for _, e := range all[from:] {
		if e.act >= 0 {
			h.sel = e.act
			return
		}
	}
}

// drawList draws the page with the selected action, in as many columns as there is room for, and says which page it is.
func (h *help) drawList(g *cell.Grid, r rect, list []action.Action) {
	if r.w <= 0 || r.h <= 0 {
		return
	}
	all := h.entries(list)
	across := max(1, r.w/36)
	h.page = across * r.h
	at := max(0, slices.IndexFunc(all, func(e entry) bool { return e.act == h.sel }))
	first := at / h.page * h.page
	if pages := (len(all) + h.page - 1) / h.page; pages > 1 {
		g.Right(r.x+r.w, r.y-1, r.w, cell.Dim, fmt.Sprintf("page %d of %d: pgdn pgup", first/h.page+1, pages))
	}
	for i, e := range all[min(first, len(all)):min(len(all), first+h.page)] {
		x, y, w := r.x+(i/r.h)*(r.w/across), r.y+i%r.h, r.w/across-1
		switch {
		case e.head != "":
			g.Text(x, y, w, cell.Dim, e.head)
		case e.act >= 0:
			h.drawEntry(g, x, y, w, list[e.act], e.act == h.sel)
		}
	}
}

func (h *help) drawEntry(g *cell.Grid, x, y, w int, a action.Action, selected bool) {
	keys := make([]string, 0, 2)
	for _, k := range a.Keys[:min(2, len(a.Keys))] {
		keys = append(keys, keyWord(k))
	}
	style := cell.Plain
	can, why := a.Can(h.t)
	if !can {
		style = cell.Dim
	}
	g.Text(x, y, 8, cell.Bold, strings.Join(keys, " "))
	word := h.word(a)
	other := slices.ContainsFunc(h.acts, func(b action.Action) bool { return b.ID != a.ID && b.Keys[0] == a.Keys[0] })
	if other && !can { // the key means something else just now
		word += ": " + why
	}
	if a.Moves() {
		word = a.Help
	}
	g.Text(x+9, y, w-9, style, word)
	if selected {
		g.Select(x, y, w)
	}
}

// drawAbout says everything about one action.
func (h *help) drawAbout(g *cell.Grid, r rect, a action.Action) {
	g.Fill(r.x, r.y, r.w, cell.Dim, '─')
	asks := [...]string{"nothing", "only where something would be lost, once more", "for the name to be typed"}[a.Danger]
	now := "✓ can be done"
	if can, why := a.Can(h.t); !can {
		now = "✗ " + why
	}
	for i, l := range []struct{ word, text string }{
		{strings.Join(a.Keys, " "), fmt.Sprintf("%s: %s", a.Words, a.Help)},
		{"command", a.Command(h.t)},
		{"asks", asks},
		{"now", now},
	} {
		if i == 0 {
			n := g.Text(r.x, r.y+1, r.w, cell.Bold, l.word)
			g.Text(r.x+n+2, r.y+1, r.w-n-2, cell.Plain, l.text)
			continue
		}
		g.Text(r.x, r.y+1+i, 8, cell.Dim, l.word)
		g.Text(r.x+9, r.y+1+i, r.w-9, cell.Plain, l.text)
	}
}
