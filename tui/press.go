package tui

import (
	"fmt"
	"slices"
	"strings"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/charmbracelet/x/ansi"

	"carte/lab"
	"carte/tui/action"
	"carte/tui/cell"
)

// twice is how soon the second ctrl+c must follow the first.
const twice = 2 * time.Second

// A sure is an action that waits for its key to be pressed once more (tier 1).
type sure struct {
	key  string
	also string // a key that counts as well; empty: none
	what string // what the key would do, and what would be lost
	do   func() tea.Cmd
}

// words asks in lines of w cells, at most most of them. What the keys do is never cut off.
func (s *sure) words(w, most int) []string {
	head, tail := s.key+" again to ", "; any other key: no"
	if s.also != "" {
		head = s.also + " or " + head
	}
	lines := wrapped(head+s.what+tail, w)
	if len(lines) > most {
		lines = wrapped(head+ansi.Truncate(s.what, max(8, most*w-len(head)-len(tail)-w/3*(most-1)), "…")+tail, w)
	}
	return lines
}

// press is one key.
func (m *model) press(p press) tea.Cmd {
	switch {
	case p.name == "ctrl+c":
		return m.interrupted()
	case p.name == "ctrl+z":
		return suspend(m)
	case m.over != nil:
		return m.over.press(m, p)
	case m.sure != nil:
		s := m.sure
		if m.sure = nil; p.name == s.key || p.name != "" && p.name == s.also {
			return s.do()
		}
		m.say(cell.Absent, "nothing was done")
		return nil
	case p.paste != "":
		m.say(cell.Warn, "nothing here takes pasted text; : opens the line for commands")
		return nil
	}
	t := m.target()
	a, ok := action.ByKey(m.actions(), p.name, t)
	if !ok {
		m.say(cell.Warn, "%s", noKey(p.name))
		return nil
	}
	return m.begin(a, t, p.name)
}

// noKey says where else a key means something.
func noKey(key string) string {
	word := keyWord(lab.Clean(key))
	for _, a := range action.Table {
		if slices.Contains(a.Keys, key) {
			var at []string
			for _, p := range a.Where {
				at = append(at, string(p))
			}
			return fmt.Sprintf("%s (%s) is no key of this place; it is one of: %s", word, a.Words, strings.Join(at, ", "))
		}
	}
	return fmt.Sprintf("%s is no key here; ? shows those that are", word)
}

// interrupted leaves what is open; the second time, the screen.
func (m *model) interrupted() tea.Cmd {
	if m.now.Sub(m.interrupt) < twice {
		return tea.Quit
	}
	m.interrupt, m.over, m.sure = m.now, nil, nil
	m.say(cell.Absent, "ctrl+c again leaves")
	return nil
}

// actions is the place whose keys count.
func (m *model) actions() action.Place {
	if m.at.at == needs {
		return action.Machines
	}
	return m.at.at
}

// begin does an action, or asks first what it needs to know.
func (m *model) begin(a action.Action, t action.Target, key string) tea.Cmd {
	if f, ok := screens[a.ID]; ok {
		return f(m)
	}
	m.flash = flash{} // it was said of what was done before
	if m.gone != nil && a.Edit == nil {
		_, remedy := m.whyGone()
		m.say(cell.Warn, "%s", strings.TrimSuffix("the lab is gone, nothing was done; "+remedy, "; "))
		return nil
	}
	if ok, why := a.Can(t); !ok {
		m.say(cell.Warn, "%s", why)
		return nil
	}
	if question := a.Question(t); question != "" && t.Text == "" {
		q := newAsk(question, a.Options(t), func(text string) string { t := t; t.Text = text; return a.Command(t) }, nil)
		q.at0, q.files = m.at, a.ID == "image.import" || a.ID == "image.export"
		if a.Present != nil {
			q.line.set(a.Present(t))
			q.empty = true
		}
		q.do = func(text string) tea.Cmd {
			t.Text = text
			return m.weigh(a, t, key, q)
		}
		m.over = q
		return nil
	}
	return m.weigh(a, t, key, nil)
}

// weigh asks again before something is lost. q is the question whose answer t has, nil where nothing was asked.
func (m *model) weigh(a action.Action, t action.Target, key string, q *ask) tea.Cmd {
	if key == "" {
		key = "y"
	}
	do := func() tea.Cmd { m.perform(a, t, q); return nil }
	switch a.Tier(t) {
	case action.Interrupts:
		m.sure = &sure{key: key, what: strings.TrimSpace(m.hintWord(a)+" "+t.Text) + ": " + a.Loses(t), do: do}
		if q != nil { // the answer came with enter
			m.sure.also = "enter"
		}
		return nil
	case action.Destroys:
		loses := ""
		if a.Loses != nil {
			loses = a.Loses(t)
		}
		m.over = newConfirm(a.Words, loses, a.Confirm(t), func(name string) tea.Cmd {
			t.Confirm = name
			m.perform(a, t, q)
			return nil
		})
		return nil
	}
	return do()
}

// perform says the action's verb to the lab. What is refused is asked again.
func (m *model) perform(a action.Action, t action.Target, q *ask) {
	m.command = a.Command(t)
	if a.Edit != nil {
		st, err := a.Edit(t)
		if err != nil {
			m.fail(err)
			q.again(m, err)
			return
		}
		m.change(st)
		return
	}
	if a.Verb == nil {
		m.long(a, t, q)
		return
	}
	v, err := a.Verb(t)
	if err != nil {
		m.fail(err)
		q.again(m, err)
		return
	}
	ctx, desk, f := m.ctx, m.desk, m.feed
	m.spawn(func() {
		changed, err := desk.Say(ctx, v)
		f.finish(outcome{words: changedWords(a, t, changed), err: err, ask: q, said: v})
	})
}

// screens are the actions that the screen does by itself, by their ids in the table.
var screens map[string]func(*model) tea.Cmd

func init() { // not a literal: the functions lead back to the map
	screens = map[string]func(*model) tea.Cmd{
		"view.machines":   visit(action.Machines),
		"view.queue":      visit(action.Queue),
		"view.images":     visit(action.Images),
		"view.stacks":     visit(action.Stacks),
		"view.log":        (*model).openLog,
		"view.needs":      visit(needs),
		"view.help":       func(m *model) tea.Cmd { m.over = newHelp(m); return nil },
		"view.filter":     func(m *model) tea.Cmd { m.over = newFind(m); return nil },
		"view.command":    func(m *model) tea.Cmd { m.over = newPalette(m); return nil },
		"view.copy":       (*model).copy,
		"view.redraw":     func(m *model) tea.Cmd { m.wantClear = true; return nil },
		"view.quit":       (*model).leave,
		"view.suspend":    suspend,
		"stack.edit":      (*model).editStack,
		"machine.console": (*model).console,
		"stack.check":     (*model).openStack,
		"log.follow":      func(m *model) tea.Cmd { m.log.follow = !m.log.follow; return nil },
		"log.wrap":        func(m *model) tea.Cmd { m.log.wrap = !m.log.wrap; return nil },
		"log.time":        func(m *model) tea.Cmd { m.log.clock = (m.log.clock + 1) % clocks; return nil },
		"move.down":       func(m *model) tea.Cmd { return m.move(1) },
		"move.up":         func(m *model) tea.Cmd { return m.move(-1) },
		"move.next":       func(m *model) tea.Cmd { return m.move(1) },
		"move.previous":   func(m *model) tea.Cmd { return m.move(-1) },
		"move.top":        func(m *model) tea.Cmd { return m.move(-1 << 30) },
		"move.bottom":     func(m *model) tea.Cmd { return m.move(1 << 30) },
		"move.page.down":  func(m *model) tea.Cmd { return m.move(max(1, m.h/2)) },
		"move.page.up":    func(m *model) tea.Cmd { return m.move(-max(1, m.h/2)) },
		"move.pane":       func(m *model) tea.Cmd { m.pane = 1 - m.pane; return nil },
		"move.pane.back":  func(m *model) tea.Cmd { m.pane = 1 - m.pane; return nil },
		"move.open":       (*model).openRow,
		"move.back":       func(m *model) tea.Cmd { m.escape(); return nil },
	}
}

// suspend gives the terminal back to the shell until fg.
func suspend(*model) tea.Cmd { return tea.Suspend }

func visit(at action.Place) func(*model) tea.Cmd {
	return func(m *model) tea.Cmd { m.goTo(place{at: at}); return nil }
}

// escape takes away one thing at a time: the filter, then the place.
func (m *model) escape() {
	if m.filters[m.at].text != "" {
		m.setFilter("")
		return
	}
	m.back()
}

// leave goes back to where a place was opened, and leaves at a tab, after a question where something would stop.
func (m *model) leave() tea.Cmd {
	if m.back() {
		return nil
	}
	if why := m.losing(); why != "" {
		m.sure = &sure{key: "q", what: "leave: " + why, do: func() tea.Cmd { return tea.Quit }}
		return nil
	}
	if m.opt.Leave != nil {
		if why := m.opt.Leave(m.snap()); why != "" {
			m.sure = &sure{key: "q", what: "leave: " + why, do: func() tea.Cmd { return tea.Quit }}
			return nil
		}
	}
	return tea.Quit
}

// inLog says whether moving keys move the log.
func (m *model) inLog() bool {
	return m.at.at == action.Log || m.at.at == action.Boot || m.at.at == action.Machines && m.pane == 1
}

func (m *model) move(by int) tea.Cmd {
	if m.inLog() {
		m.log.scroll(by)
		return nil
	}
	l := m.list()
	was := l.key
	if l.move(m.rowKeys(), by); l.key != was {
		m.command = ""
	}
	return nil
}

// openRow opens what is selected.
func (m *model) openRow() tea.Cmd {
	t := m.target()
	switch m.at.at {
	case action.Machines, needs, action.Queue:
		if t.Machine.ID == 0 {
			m.say(cell.Warn, "there is nothing to open here")
			return nil
		}
		p := place{at: action.Boot, machine: t.Machine.ID}
		if m.at.at == action.Queue {
			p.boot = t.Boot.ID
		}
		m.goTo(p)
	case action.Boot:
		return m.openLog()
	case action.Images:
		if t.Image.Name != "" && m.at.image == "" {
			m.goTo(place{at: action.Images, image: t.Image.Name})
		} else {
			m.say(cell.Warn, "there is nothing to open here")
		}
	case action.Stacks:
		return m.openStack()
	default:
		m.say(cell.Warn, "there is nothing to open here")
	}
	return nil
}

func (m *model) openLog() tea.Cmd {
	m.goTo(place{at: action.Log, machine: m.target().Machine.ID})
	return nil
}

// copy puts the command of the last line on the clipboard of the person's own terminal (OSC 52; xterm), also through ssh.
func (m *model) copy() tea.Cmd {
	command := m.lineCommand()
	if _, err := m.out.Write([]byte(ansi.SetSystemClipboard(command))); err != nil {
		m.fail(err)
		return nil
	}
	m.say(cell.Done, "copied: %s", command)
	return nil
}

// shell carries out a command typed after ':'.
func (m *model) shell(line string) {
	m.command = "carte " + line
	run, ctx, f := m.opt.Command, m.ctx, m.feed
	m.spawn(func() {
		text, err := run(ctx, line)
		f.finish(outcome{words: "carte " + line, text: text, err: err})
	})
}
