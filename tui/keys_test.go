package tui

import (
	"slices"
	"testing"
	"time"

	tea "github.com/charmbracelet/bubbletea"
)

func TestSplit(t *testing.T) {
	runes := func(s string) tea.KeyMsg { return tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune(s)} }
	alt := func(s string) tea.KeyMsg { return tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune(s), Alt: true} }
	for _, c := range []struct {
		name string
		msgs []tea.KeyMsg
		want []string
	}{
		{"one", []tea.KeyMsg{runes("j")}, []string{"j"}},
		{"together", []tea.KeyMsg{runes("jjk")}, []string{"j", "j", "k"}},
		{"letters of other scripts", []tea.KeyMsg{runes("é日")}, []string{"é", "日"}},
		{"esc", []tea.KeyMsg{{Type: tea.KeyEscape}}, []string{"esc"}},
		{"esc and j in one read", []tea.KeyMsg{alt("j")}, []string{"esc", "j"}},
		{"esc and enter in one read", []tea.KeyMsg{{Type: tea.KeyEnter, Alt: true}}, []string{"esc", "enter"}},
		{"space", []tea.KeyMsg{{Type: tea.KeySpace, Runes: []rune{' '}}}, []string{" "}},
		{"answer to OSC 11, ST", []tea.KeyMsg{alt("]"), runes("11;rgb:1e1e/1e1e/1e1e"), alt(`\`), runes("j")}, []string{"j"}},
		{"answer to OSC 11, BEL", []tea.KeyMsg{alt("]"), runes("11;rgb:1e1e/1e1e/1e1e"), {Type: tea.KeyCtrlG}, runes("q")}, []string{"q"}},
		{"DCS", []tea.KeyMsg{alt("P"), runes(">|kitty(0.40)"), alt(`\`), runes("x")}, []string{"x"}},
		{"arrow", []tea.KeyMsg{{Type: tea.KeyDown}}, []string{"down"}},
	} {
		var k keys
		var got []string
		for _, msg := range c.msgs {
			for _, p := range k.split(msg, noon) {
				got = append(got, p.name)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// An answer that is never ended does not eat the person's keys for ever.
func TestUnendedAnswer(t *testing.T) {
	var k keys
	k.split(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune("]"), Alt: true}, noon)
	if got := k.split(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune("11;rgb")}, noon.Add(time.Millisecond)); got != nil {
		t.Errorf("the answer came through as %v", got)
	}
	if got := k.split(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune("j")}, noon.Add(time.Second)); len(got) != 1 || got[0].name != "j" {
		t.Errorf("a key a second later: %v", got)
	}
}

// What is pasted is text and never a command.
func TestPaste(t *testing.T) {
	m, desk := newTest(t, bench(), 80, 24, Options{})
	m.Update(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune("qxDy"), Paste: true})
	if m.over != nil || m.sure != nil || len(desk.said) > 0 {
		t.Error("pasted text did something")
	}
	m.tap("/")
	m.Update(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune("nuc\n\x1b[2J"), Paste: true})
	if got := m.filters[m.at].text; got != "nuc " {
		t.Errorf("the filter is %q", got)
	}
}
