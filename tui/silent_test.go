package tui

import (
	"strings"
	"testing"

	"github.com/charmbracelet/x/ansi"

	"carte/lab"
	"carte/tui/action"
)

// A key that does nothing says so, and where else it does something.
func TestNoKeyIsSilent(t *testing.T) {
	for _, c := range []struct {
		s          lab.Snapshot
		keys, says string
	}{
		{bench(), "4 B", "B (boot again) is no key of this place; it is one of: machines, boot"},
		{lab.Snapshot{Rev: 1}, "z", "z is no key here; ? shows those that are"},
		{lab.Snapshot{Rev: 1}, "enter", "there is nothing to open here"},
		{lab.Snapshot{Rev: 1}, "w", "w (wrap) is no key of this place; it is one of: log, boot"},
		{bench(), "3 enter enter", "there is nothing to open here"},
		{bench(), "L enter", "there is nothing to open here"},
	} {
		m, _ := newTest(t, c.s, 80, 24, Options{})
		if m.tap(c.keys); m.flash.text != c.says {
			t.Errorf("%s says %q, want %q", c.keys, m.flash.text, c.says)
		}
	}
	m, _ := newTest(t, bench(), 80, 24, Options{})
	if m.press(press{paste: "x"}); !strings.Contains(m.flash.text, "pasted") || m.sure != nil {
		t.Errorf("pasted text: %q", m.flash.text)
	}
}

// Help that finds nothing says so.
func TestHelpFindsNothing(t *testing.T) {
	for _, w := range []int{40, 80, 120} {
		m, _ := newTest(t, bench(), w, 24, Options{})
		m.tap("? z z z z")
		if v := ansi.Strip(m.View()); !strings.Contains(v, "nothing is called that") {
			t.Errorf("%d columns:\n%s", w, v)
		}
	}
}

// What was done is said with what it was done to.
func TestDoneNamesWhat(t *testing.T) {
	m, _ := newTest(t, bench(), 80, 24, Options{})
	m.sel("vm-1")
	m.tap("p")
	m.typeText("on")
	if m.tap("enter"); m.flash.text != "power vm-1 on" {
		t.Errorf("it says %q", m.flash.text)
	}
	m.sel("xeon-a")
	if m.tap("r"); m.flash.text != "boot retry 74" {
		t.Errorf("it says %q", m.flash.text)
	}
	queue, _ := action.ByID("boot.queue")
	got := changedWords(queue, m.target(), lab.Changed{Boots: []lab.Boot{{ID: 9, Machine: 6, State: lab.Queued, Plan: lab.Plan{Stack: "hpt-3"}}}})
	if got != "boot 9 of hpt-3 on vm-1 is queued" {
		t.Errorf("it says %q", got)
	}
}

// A stack that is not saved has a mark in the list, and is named when the composer is left.
func TestUnsavedIsSeen(t *testing.T) {
	for _, w := range []int{60, 80, 120} {
		m, _ := newTest(t, carte(), w, 24, Options{})
		m.tap("4")
		m.list().key = "a-la-carte"
		m.tap("enter x esc")
		if m.at != (place{at: action.Stacks}) || !strings.Contains(m.flash.text, "stack a-la-carte is not saved; enter opens it again") {
			t.Errorf("esc leads to %+v and says %q", m.at, m.flash.text)
		}
		var marked []string
		for _, l := range m.linesOf()[2:10] {
			if strings.Contains(l, " *") {
				marked = append(marked, l)
			}
		}
		if len(marked) != 1 || !strings.Contains(marked[0], "> a-la-carte *unsaved") {
			t.Errorf("%d columns mark %q:\n%s", w, marked, ansi.Strip(m.View()))
		}
	}
}

// An empty list of images says all that can become one.
func TestNoImagesSaysWhatCanBeOne(t *testing.T) {
	for _, size := range [][2]int{{40, 12}, {60, 16}, {80, 24}, {120, 40}} {
		m, _ := newTest(t, lab.Snapshot{Rev: 1}, size[0], size[1], Options{})
		m.tap("3")
		text := strings.Join(strings.Fields(strings.ReplaceAll(ansi.Strip(m.View()), "│", "")), " ")
		if !strings.Contains(text, "a tree or files (a folder or a tar), or a kernel;") {
			t.Errorf("%v:\n%s", size, ansi.Strip(m.View()))
		}
		fitsIn(t, m.View(), size[0], size[1])
	}
}
