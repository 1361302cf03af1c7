package tui

import (
	"fmt"
	"slices"
	"strings"

	"github.com/charmbracelet/x/ansi"

	"carte/lab"
	"carte/tui/action"
	"carte/tui/cell"
)

// drawHints says what can be done to what is selected.
func (m *model) drawHints(g *cell.Grid) {
	y, help := m.h-2, "? help"
	t := m.target()
	x, room := 1, m.w-2-len(help)-gap
	if words := m.filterWords(); words != "" {
		x += g.Text(x, y, room*2/3, cell.Yellow, words) + gap
	}
	for _, a := range m.hints(t) {
		key := keyWord(a.Keys[0])
		word := m.hintWord(a)
		n := cell.Width(key) + 1 + len(word)
		if x+n > room {
			continue
		}
		x += g.Text(x, y, room, cell.Bold, key)
		x += 1 + g.Text(x+1, y, room, cell.Plain, word) + gap
	}
	g.Right(m.w-1, y, len(help), cell.Plain, help)
}

// filterWords says what a place leaves out and how to see all again; empty while it shows everything.
func (m *model) filterWords() string {
	f := m.filters[m.at].text
	if f == "" {
		return ""
	}
	return fmt.Sprintf("filter: %s  %s  esc clears", ansi.Truncate(lab.Clean(f), 18, "…"), m.found())
}

// hints are the actions that can be done just now, those of the place first. Keys that every place has come last.
func (m *model) hints(t action.Target) (list []action.Action) {
	open, _ := action.ByID("move.open")
	if _, can := m.opens(t); can {
		list = append(list, open)
	}
	for _, a := range action.At(m.actions()) {
		own := slices.Contains(a.Where, m.actions())
		if !own || len(a.Keys) == 0 || m.at.at == needs && a.ID == "machine.add" {
			continue
		}
		if can, _ := a.Can(t); can {
			list = append(list, a)
		}
	}
	for _, id := range []string{"view.filter", "view.command"} {
		a, _ := action.ByID(id)
		list = append(list, a)
	}
	if m.at.tab() != m.at.at || m.at.image != "" || m.at.at == needs {
		back, _ := action.ByID("move.back")
		list = append(list, back)
	}
	slices.SortStableFunc(list, func(a, b action.Action) int { return hintRank(a) - hintRank(b) })
	return list
}

// ranks puts the hints in order where there is no room for all: what one came for first, what is rare last.
var ranks = map[string]int{
	"move.open": 0, "move.back": 1, "machine.adopt": 1, "boot.queue": 1, "boot.retry": 1, "boot.stop": 2, "queue.rm": 2, "machine.ignore": 2,
	"machine.power": 3, "boot.again": 3, "machine.add": 4, "view.log": 4, "view.filter": 5, "view.command": 5,
	"compose.save": 1, "compose.fix": 1, "compose.add": 2, "compose.rm": 3, "compose.version": 3, "compose.try": 4, "stack.edit": 4, "compose.clause": 5,
	"stack.new": 2, "stack.diff": 6, "compose.up": 6, "compose.down": 6, "image.tag": 6, "image.rollback": 7,
	"boot.capture": 6, "machine.set": 7, "machine.forget": 8, "log.follow": 7,
}

func hintRank(a action.Action) int {
	if n, ok := ranks[a.ID]; ok {
		return n
	}
	return 4
}

// opens says whether enter leads anywhere.
func (m *model) opens(t action.Target) (string, bool) {
	switch m.at.at {
	case action.Machines, action.Queue, needs:
		return "boot", t.Machine.ID != 0
	case action.Images:
		return "versions", t.Image.Name != "" && m.at.image == ""
	case action.Stacks:
		return "layers", t.Stack.Name != ""
	}
	return "", false
}

// nouns are the words that go without saying at a place.
var nouns = map[action.Place][]string{
	action.Machines: {"machine ", "boot ", "queue "}, action.Queue: {"queue ", "boot "}, action.Images: {"image "},
	action.Stacks: {"stack "}, action.Compose: {"layer ", "stack "}, action.Boot: {"boot ", "queue "},
}

// hintWord is an action's shortest word: what is left of machine power, boot stop, queue rm.
func (m *model) hintWord(a action.Action) string {
	word := strings.TrimPrefix(a.Words, "move ")
	for _, noun := range nouns[m.actions()] {
		word = strings.TrimPrefix(word, noun)
	}
	switch word {
	case "rm":
		return "remove"
	case "mv":
		return "move"
	}
	return word
}

func keyWord(key string) string {
	switch key {
	case " ":
		return "space"
	case "ctrl+d", "ctrl+u", "ctrl+l", "ctrl+z", "ctrl+c":
		return "^" + key[5:]
	}
	return key
}
