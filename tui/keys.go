package tui

import (
	"time"

	tea "github.com/charmbracelet/bubbletea"
)

// A press is one key, named as Bubble Tea names it. Paste is text that was pasted, which is never a command.
type press struct {
	name  string
	paste string
}

// keys takes apart what Bubble Tea reports: keys that arrive together come as one message, an Escape with a key close
// behind it as Alt and that key, and the terminal's late answer to a question that somebody asked it as keys that nobody
// pressed.
type keys struct {
	swallow bool
	last    time.Time
}

// answer is how long after its last piece the terminal's answer is over, whether or not it was ended properly.
const answer = 100 * time.Millisecond

// split returns the keys in a message.
func (k *keys) split(msg tea.KeyMsg, now time.Time) (list []press) {
	late := now.Sub(k.last) > answer
	k.last = now
	if msg.Paste {
		return []press{{paste: string(msg.Runes)}}
	}
	if k.swallow && !late {
		// ST is Escape and \, which arrives as Alt and \; BEL is ctrl+g (ECMA-48, 8.3.143; xterm).
		if msg.Type == tea.KeyCtrlG || msg.Alt && string(msg.Runes) == `\` {
			k.swallow = false
		}
		return nil
	}
	k.swallow = false
	if msg.Type == tea.KeyRunes && msg.Alt && len(msg.Runes) == 1 {
		switch msg.Runes[0] {
		case ']', 'P', '_', '^': // OSC, DCS, APC, PM: an answer begins
			k.swallow = true
			return nil
		}
	}
	if msg.Alt {
		list = append(list, press{name: "esc"})
		msg.Alt = false
	}
	if msg.Type == tea.KeyRunes {
		for _, r := range msg.Runes {
			list = append(list, press{name: string(r)})
		}
		return list
	}
	return append(list, press{name: msg.String()})
}

// message turns a key back into what the editing of a line wants.
func (p press) message() tea.KeyMsg {
	if p.paste != "" {
		return tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune(p.paste), Paste: true}
	}
	if p.name == " " {
		return tea.KeyMsg{Type: tea.KeySpace, Runes: []rune{' '}}
	}
	if t, ok := editing[p.name]; ok {
		return tea.KeyMsg{Type: t}
	}
	if r := []rune(p.name); len(r) == 1 {
		return tea.KeyMsg{Type: tea.KeyRunes, Runes: r}
	}
	return tea.KeyMsg{Type: tea.KeyNull}
}

// editing are the keys by which a line is edited.
var editing = map[string]tea.KeyType{
	"backspace": tea.KeyBackspace, "delete": tea.KeyDelete, "left": tea.KeyLeft, "right": tea.KeyRight,
	"home": tea.KeyHome, "end": tea.KeyEnd, "ctrl+a": tea.KeyCtrlA, "ctrl+e": tea.KeyCtrlE, "ctrl+k": tea.KeyCtrlK,
	"ctrl+u": tea.KeyCtrlU, "ctrl+w": tea.KeyCtrlW, "ctrl+b": tea.KeyCtrlB, "ctrl+f": tea.KeyCtrlF, "ctrl+d": tea.KeyCtrlD,
}
