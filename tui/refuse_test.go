package tui

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/charmbracelet/x/ansi"

	"carte/lab"
)

// A question whose answer was refused stays, with what was typed and why, in words and without Go's.
func TestRefusedAnswersStay(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct{ keys, text, want string }{
		{"3 a", filepath.Join(dir, "none"), "there is no such file or folder; nothing was changed"},
		{"3 a", dir + " x tar", "carte knows disk, tree, files and kernel"},
		{"3 a", "one two tree four", "is not a file and, at most, a name"},
		{"3 e", filepath.Join(dir, "none", "x"), "there is no such file or folder; nothing was changed"},
		{"4 a", "one", "is not a stack's name and an image"},
	} {
		m, desk := newTest(t, bench(), 80, 24, Options{})
		m.tap(c.keys)
		m.typeText(c.text)
		m.tap("enter")
		a, ok := m.over.(*ask)
		if !ok || a.line.text() != c.text || !strings.Contains(a.refused, c.want) || strings.Contains(a.refused, "open /") {
			t.Errorf("%s, %q: %+v", c.keys, c.text, m.over)
			continue
		}
		view := strings.Join(strings.Fields(strings.ReplaceAll(ansi.Strip(m.View()), "│", "")), " ")
		if !strings.Contains(view, c.want) {
			t.Errorf("%s, %q: it does not say %q:\n%s", c.keys, c.text, c.want, ansi.Strip(m.View()))
		}
		if m.tap("esc"); m.over != nil || len(desk.said) > 0 {
			t.Errorf("%s: esc does not leave it, said %v", c.keys, desk.said)
		}
	}
	m, _ := newTest(t, bench(), 80, 24, Options{})
	m.desk = &refuser{}
	m.sel("vm-1")
	m.tap("b")
	m.typeText("hpt-3")
	m.tap("enter")
	if a, ok := m.over.(*ask); !ok || a.line.text() != "hpt-3" || !strings.Contains(a.refused, "carte boot stop 3 comes first") {
		t.Errorf("what the lab refused is not asked again: %+v", m.over)
	}
}

// tab completes the name of a file as far as it is certain, and shows what there is.
func TestTabCompletesFiles(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"debian-1.img", "debian-2.img", ".hidden", "über.img", "übel.img"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	for typed, want := range map[string]string{"/d": "/debian-", "/debian-2": "/debian-2.img", "/s": "/sub/", "/.": "/.hidden", "/x": "/x", "/": "/", "/ü": "/übe", "/d x": "/d x"} {
		m, _ := newTest(t, bench(), 80, 24, Options{})
		m.tap("3 a")
		a := m.over.(*ask)
		a.line.set(dir + typed)
		m.tap("tab")
		if got := a.line.text(); got != dir+want {
			t.Errorf("tab after %s: %s, want %s", typed, got, want)
		}
		if seen := strings.Contains(m.View(), "debian-1.img"); seen != (typed == "/d" || typed == "/") {
			t.Errorf("tab after %s shows debian-1.img: %v", typed, seen)
		}
	}
}

// Every action of a place can be reached in help by paging, in small windows too.
func TestHelpPages(t *testing.T) {
	for _, size := range [][2]int{{40, 12}, {60, 16}, {80, 24}, {120, 40}} {
		m, _ := newTest(t, bench(), size[0], size[1], Options{})
		m.tap("?")
		h := m.over.(*help)
		list := h.shown()
		shown, first := map[string]bool{}, m.View()
		for range len(list) {
			for _, l := range m.linesOf() {
				shown[l] = true
			}
			m.tap("pgdown")
		}
		if h.sel != len(list)-1 && !strings.Contains(m.View(), keyWord(list[len(list)-1].Keys[0])) {
			t.Errorf("%v: the last page does not show the last action, %s", size, list[len(list)-1].ID)
		}
		all := ""
		for l := range shown {
			all += l + "\n"
		}
		for _, a := range list {
			if word := ansi.Truncate(keyWord(a.Keys[0])+" ", 6, ""); !strings.Contains(all, word) {
				t.Errorf("%v: %s (%s) is on no page", size, a.ID, word)
			}
		}
		m.tap("end")
		if h.sel != len(list)-1 {
			t.Errorf("%v: end leads to %d of %d", size, h.sel, len(list))
		}
		if m.tap("home"); m.View() != first {
			t.Errorf("%v: home does not lead back", size)
		}
		if m.tap("pgdown pgup"); h.sel > h.page {
			t.Errorf("%v: pgup after pgdown is at %d", size, h.sel)
		}
	}
}

// What needs a boot does not name boot 0 where there is none.
func TestNoBootZero(t *testing.T) {
	m, _ := newTest(t, lab.Snapshot{Rev: 1}, 80, 24, Options{})
	m.tap("2 ?")
	for range len(m.over.(*help).shown()) {
		for _, l := range m.linesOf() {
			if strings.Contains(l, " 0 ") && strings.Contains(l, "carte ") {
				t.Errorf("help on an empty queue: %s", l)
			}
		}
		m.tap("down")
	}
}

// A boot without an estimate says how much past there is and how much it takes.
func TestNoEstimateYet(t *testing.T) {
	s := bench()
	for id, b := range s.Boots {
		if b.State == lab.Done && b.Machine == 2 && id != 6 {
			delete(s.Boots, id)
		}
	}
	for progress, want := range map[lab.Progress]string{
		{}: "no estimate yet: 1 of 3 past boots",
		{Rung: lab.RungWrite, Done: 1e9, Of: 2e9, Rate: 1e7}: "1m40s left", // the agent's own rate is an estimate
	} {
		live := s.Live[2]
		live.Progress = progress
		s.Live[2] = live
		m, _ := newTest(t, s, 80, 24, Options{Start: "machines/nuc-2"})
		if v := ansi.Strip(m.View()); !strings.Contains(v, want) || strings.Contains(v, "no estimate yet") != strings.Contains(want, "no estimate") {
			t.Errorf("nuc-2 has been booted once before; not %q alone:\n%s", want, v)
		}
	}
}
