package tui

import (
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"

	"carte/lab"
	"carte/tui/action"
)

// linesOf are the lines of the picture, without styles.
func (m *model) linesOf() []string {
	m.dirty = true
	return strings.Split(ansi.Strip(m.View()), "\n")
}

// lastLine is the picture's last line.
func (m *model) lastLine() string {
	l := m.linesOf()
	return strings.TrimSpace(l[len(l)-1])
}

// One press of q leaves at every tab, however many were visited before; esc leads nowhere from there.
func TestTabsAreTops(t *testing.T) {
	m, _ := newTest(t, bench(), 80, 24, Options{})
	for _, key := range []string{"1", "2", "3", "4"} {
		m.tap("2 3 4 1 " + key)
		at := m.at
		if m.tap("esc esc"); m.at != at {
			t.Errorf("esc at tab %s leads to %+v", key, m.at)
		}
		if !m.tap("q") {
			t.Errorf("q at tab %s does not leave", key)
		}
	}
}

// q and esc go back to where a place was opened.
func TestBackIsWhereItWasOpened(t *testing.T) {
	for keys, want := range map[string]place{
		"3 2 enter":    {at: action.Queue},
		"2 3 enter":    {at: action.Images},
		"2 !":          {at: action.Queue},
		"1 enter L":    {at: action.Boot, machine: 5},
		"1 enter L !":  {at: action.Log, machine: 5},
		"4 1 enter 3":  {at: action.Images},
		"! enter":      {at: needs},
		"2 ! enter 2 ": {at: action.Queue},
	} {
		for _, key := range []string{"q", "esc"} {
			m, _ := newTest(t, bench(), 80, 24, Options{})
			m.tap(keys)
			if m.at.top() {
				continue
			}
			if m.tap(key); m.at != want {
				t.Errorf("%s, then %s: at %+v, want %+v", keys, key, m.at, want)
			}
		}
	}
	m, _ := newTest(t, bench(), 80, 24, Options{Start: "needs"})
	if m.at.at != needs || m.tap("q") || m.at.at != action.Machines {
		t.Errorf("q at what was opened first: at %+v", m.at)
	}
}

// The last line is the command for what is under the cursor; that of an action stays until the cursor or the place is
// another, and y copies what it shows.
func TestLastLineIsThePlaces(t *testing.T) {
	m, _ := newTest(t, bench(), 80, 24, Options{})
	var out strings.Builder
	m.out = &out
	for _, step := range []struct{ keys, want string }{
		{"3", "$ carte image show debian"},
		{"V", "✓ debian is whole: every chunk has its hash  $ carte image verify debian"},
		{"4", "$ carte stack show demo"},
		{"2", "$ carte boot show 70"},
		{"x x", "✓ boot stop 70  $ carte boot stop 70"},
		{"j", "✓ boot stop 70"},
		{"enter", "$ carte boot show 75"},
		{"L", "$ carte log -f opti-7"},
		{"1", "$ carte machine show opti-7"},
	} {
		m.tap(step.keys)
		if got := m.lastLine(); got != step.want {
			t.Errorf("after %s the last line is %q, want %q", step.keys, got, step.want)
		}
	}
	m.opt.Now = func() time.Time { return noon }
	if m.tap("y"); out.String() != ansi.SetSystemClipboard("carte machine show opti-7") {
		t.Errorf("y copied %q", out.String())
	}
	empty, _ := newTest(t, lab.Snapshot{Rev: 1}, 80, 24, Options{})
	for key, want := range map[string]string{"1": "$ carte machine ls", "2": "$ carte queue ls", "3": "$ carte image ls", "4": "$ carte stack ls"} {
		if empty.tap(key); empty.lastLine() != want {
			t.Errorf("an empty lab, tab %s: %q, want %q", key, empty.lastLine(), want)
		}
	}
}

// Words that were said fade, and do not follow to another place.
func TestWordsFade(t *testing.T) {
	m, _ := newTest(t, bench(), 80, 24, Options{})
	m.sel("vm-1")
	m.tap("x")
	if !strings.Contains(m.lastLine(), "no boot to stop") {
		t.Fatalf("the last line is %q", m.lastLine())
	}
	m.Update(wakeMsg{at: noon.Add(flashTime)})
	if got := m.lastLine(); got != "$ carte machine show vm-1" {
		t.Errorf("after %s the last line is %q", flashTime, got)
	}
	m.tap("x 2")
	if got := m.lastLine(); got != "$ carte boot show 70" {
		t.Errorf("on another tab the last line is %q", got)
	}
}

// A filter is seen wherever it leaves something out, and is gone once its tab was left.
func TestFilterIsSeen(t *testing.T) {
	for _, size := range [][2]int{{120, 40}, {80, 24}, {60, 16}, {40, 12}} {
		for key, all := range map[string]string{"1": "9", "2": "8", "3": "3", "4": "5", "3 enter": "3"} {
			m, _ := newTest(t, bench(), size[0], size[1], Options{})
			m.tap(key)
			m.tap("/ z z z enter")
			view := ansi.Strip(m.View())
			if !strings.Contains(view, "filter: zzz  0 of "+all+"  esc clears") || !strings.Contains(view, "Nothing here has that") {
				t.Errorf("%v, tab %s: the filter is not seen:\n%s", size, key, view)
			}
			if key == "3 enter" {
				continue
			}
			m.tap("4 3 " + key)
			if m.filters[m.at].text != "" || len(m.rowKeys()) == 0 {
				t.Errorf("tab %s: the filter %q is there again", key, m.filters[m.at].text)
			}
		}
	}
}

// What would be lost, and the keys, are read in full whatever the width.
func TestSureIsReadInFull(t *testing.T) {
	why := "the lab lives in this window; boots going on: 1; they begin again with the next carte"
	for _, w := range []int{40, 60, 80, 120} {
		m, _ := newTest(t, bench(), w, 24, Options{Leave: func(lab.Snapshot) string { return why }})
		m.tap("q")
		view := strings.Join(strings.Fields(ansi.Strip(m.View())), " ")
		if want := "q again to leave: " + why + "; any other key: no"; !strings.Contains(view, want) {
			t.Errorf("%d columns do not show %q:\n%s", w, want, ansi.Strip(m.View()))
		}
		fitsIn(t, m.View(), w, 24)
	}
	s := &sure{key: "q", what: strings.Repeat("word ", 200)}
	if l := s.words(38, 4); len(l) > 4 || !strings.HasSuffix(strings.Join(l, " "), "any other key: no") {
		t.Errorf("%d lines: %q", len(l), l)
	}
}
