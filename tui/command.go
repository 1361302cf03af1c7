package tui

import (
	"slices"
	"strings"

	tea "github.com/charmbracelet/bubbletea"

	"carte/lab"
	stext "carte/lab/text"
	"carte/tui/action"
	"carte/tui/cell"
)

// A palette is where commands are typed: the words of the table for what is selected, an address to go to, or a shell
// command without its first word.
type palette struct {
	line line
	acts []action.Action
	t    action.Target
	sel  int // of the suggestions; -1: none, what was typed counts
	past int // how far back in what was typed before
}

func newPalette(m *model) *palette {
	p := &palette{line: newLine(), t: m.target(), sel: -1}
	for _, a := range append(action.At(m.actions()), action.Table...) {
		known := slices.ContainsFunc(p.acts, func(x action.Action) bool { return x.ID == a.ID })
		if !known && !a.Moves() && a.ID != "view.command" {
			p.acts = append(p.acts, a)
		}
	}
	return p
}

// shown are the actions whose words begin with what was typed, then those that contain it; the ones that can be done
// first.
func (p *palette) shown() (list []action.Action) {
	typed := strings.ToLower(strings.TrimSpace(p.line.text()))
	rank := func(a action.Action) int {
		n := 0
		if !strings.HasPrefix(a.Words, typed) {
			n = 2
		}
		if can, _ := a.Can(p.t); !can {
			n++
		}
		return n
	}
	f := parseFilter(typed)
	for _, a := range p.acts {
		if f.keeps(a.Words+" "+a.Help, nil) {
			list = append(list, a)
		}
	}
	slices.SortStableFunc(list, func(a, b action.Action) int { return rank(a) - rank(b) })
	return list
}

func (p *palette) press(m *model, k press) tea.Cmd {
	list := p.shown()
	switch k.name {
	case "esc":
		m.over = nil
	case "down":
		p.sel = min(p.sel+1, len(list)-1)
	case "up":
		if p.sel < 0 {
			p.recall(m, 1)
		} else {
			p.sel--
		}
	case "tab":
		if len(list) > 0 {
			p.line.set(list[max(0, p.sel)].Words + " ")
			p.sel = -1
		}
	case "enter":
		m.over = nil
		if p.sel >= 0 && p.sel < len(list) {
			return m.begin(list[p.sel], m.target(), "")
		}
		return m.typed(strings.TrimSpace(p.line.text()), list)
	default:
		p.line.press(k)
		p.sel, p.past = -1, 0
	}
	return nil
}

// recall brings back what was typed before.
func (p *palette) recall(m *model, by int) {
	if p.past+by > len(m.past) {
		return
	}
	p.past += by
	p.line.set(m.past[len(m.past)-p.past])
}

// keptTyped is how many typed commands are remembered.
const keptTyped = 100

// typed does what was typed.
func (m *model) typed(text string, list []action.Action) tea.Cmd {
	text = strings.TrimPrefix(text, "carte ")
	if text == "" {
		return nil
	}
	m.past = append(m.past, text)
	m.past = m.past[max(0, len(m.past)-keptTyped):]
	if address, ok := strings.CutPrefix(text, "go "); ok {
		m.open(strings.TrimSpace(address))
		return nil
	}
	a, rest, ok := action.ByWords(m.actions(), text)
	switch {
	case ok && rest == "":
		return m.begin(a, m.target(), "")
	case ok && screens[a.ID] != nil:
		return m.named(a, rest, text)
	case m.opt.Command != nil:
		m.shell(text)
		return nil
	case ok:
		t := m.target()
		t.Text = rest
		return m.begin(a, t, "")
	case len(list) > 0:
		return m.begin(list[0], m.target(), "")
	}
	m.say(cell.Failed, "%q is no command; ? lists them", text)
	return nil
}

// named does what the screen does by itself to what the words name, not to what is selected. What it cannot do with them is
// the shell's, with all of them.
func (m *model) named(a action.Action, rest, text string) tea.Cmd {
	s := m.snap()
	name, more, _ := strings.Cut(rest, " ")
	if more != "" || strings.HasPrefix(name, "-") {
		a = action.Action{}
	}
	switch a.ID {
	case "stack.edit", "stack.check":
		st, ok := s.Stacks[name]
		switch d := m.drafts[name]; {
		case !ok:
			m.say(cell.Failed, "there is no stack %s", lab.Clean(name))
		case a.ID == "stack.check":
			m.goTo(place{at: action.Compose, stack: name})
		case d != nil:
			return m.edit(name, stext.Stack(d.st), 1)
		default:
			return m.edit(name, stext.Stack(st), 1)
		}
		return nil
	case "machine.console", "view.log":
		mc, err := s.Find(name)
		if err != nil {
			m.fail(err)
			return nil
		}
		if a.ID == "view.log" {
			m.goTo(place{at: action.Log, machine: mc.ID})
			return nil
		}
		t := action.Target{Snapshot: s}
		m.aim(&t, mc.ID)
		return m.consoleOf(t)
	}
	if m.opt.Command == nil {
		m.say(cell.Warn, "from a shell: carte %s", text)
		return nil
	}
	m.shell(text)
	return nil
}

func (p *palette) draw(m *model, g *cell.Grid) {
	list := p.shown()
	r := box(g, min(m.w, 100), min(m.h, 18), "Command", "tab completes  enter runs  esc")
	n := g.Text(r.x, r.y, 2, cell.Bold, ": ")
	p.line.draw(g, r.x+n, r.y, r.w-n)
	g.Fill(r.x, r.y+1, r.w, cell.Dim, '─')
	h := r.h - 4
	first := max(0, p.sel-h+1)
	for i, a := range list[min(first, len(list)):min(len(list), first+max(h, 0))] {
		y := r.y + 2 + i
		style, text := cell.Plain, a.Help
		if can, why := a.Can(p.t); !can {
			style, text = cell.Dim, why
		}
		g.Text(r.x+2, y, 18, style, a.Words)
		g.Text(r.x+21, y, r.w-30, style, text)
		if len(a.Keys) > 0 {
			g.Right(r.x+r.w-1, y, 8, cell.Dim, keyWord(a.Keys[0]))
		}
		if first+i == p.sel {
			g.Put(r.x, y, cell.Bold, '>')
			g.Select(r.x, y, r.w)
		}
	}
	g.Text(r.x, r.y+r.h-1, r.w, cell.Dim, "$ "+p.preview(list))
}

// preview is the shell command that enter would be.
func (p *palette) preview(list []action.Action) string {
	switch typed := strings.TrimSpace(p.line.text()); {
	case p.sel >= 0 && p.sel < len(list):
		return list[p.sel].Command(p.t)
	case typed != "":
		return "carte " + strings.TrimPrefix(typed, "carte ")
	}
	return "carte …  any command of the shell works here too"
}
