package tui

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/charmbracelet/x/ansi"

	"carte/lab"
	"carte/tui/action"
)

// anything is a lab in whatever state.
func anything(r *rand.Rand) lab.Snapshot {
	names := []string{"nuc-1", "日本語の機械", "a", "x.y-z_very-long-name-of-a-machine-in-a-rack", "e\u0301"}
	s := lab.Snapshot{Rev: 1, Machines: map[int64]lab.Machine{}, Live: map[int64]lab.Live{}, Boots: map[int64]lab.Boot{}, Images: map[string]lab.Image{}, Versions: map[string]lab.Version{}, Stacks: map[string]lab.Stack{}}
	for i := range int64(r.IntN(70)) {
		m := lab.Machine{ID: i + 1, Name: fmt.Sprint(names[r.IntN(len(names))], i), Standing: []lab.Standing{lab.Adopted, lab.Adopted, lab.Unknown, lab.Ignored}[r.IntN(4)], MACs: []lab.MAC{lab.MAC(fmt.Sprintf("52:54:00:00:00:%02x", i))}}
		if m.Standing == lab.Unknown {
			m.Name = ""
		}
		if r.IntN(9) == 0 {
			m.Parked = "boot 3 failed 3 times: \x1b[2Jevil\nwords"
		}
		if r.IntN(3) == 0 {
			m.Virtual = &lab.Virtual{}
		}
		s.Machines[m.ID] = m
		s.Live[m.ID] = lab.Live{Machine: m.ID, Seen: before(time.Duration(r.IntN(1e6)) * time.Millisecond), Asked: r.IntN(5), Power: []string{"on", "off", ""}[r.IntN(3)],
			Progress: lab.Progress{Rung: lab.RungWrite, Done: r.Int64N(1e10), Of: r.Int64N(1e10), Rate: r.Float64() * 1e9}}
	}
	states := []lab.State{lab.Queued, lab.Starting, lab.Working, lab.Handover, lab.Running, lab.Done, lab.Failed, lab.Revoked}
	for i := range int64(r.IntN(120)) {
		b := lab.Boot{ID: i + 1, Machine: r.Int64N(80), State: states[r.IntN(len(states))], Attempt: r.IntN(4), Order: i, Since: before(time.Minute), Queued: before(time.Hour), Plan: lab.Plan{Stack: names[r.IntN(len(names))], Until: lab.RungRun}}
		for j := range r.IntN(len(lab.Ladder)) {
			b.Climbs = append(b.Climbs, lab.Climb{Rung: lab.Ladder[j].Rung, At: before(time.Duration(60-j) * time.Second), Attempt: b.Attempt, Inferred: r.IntN(6) == 0})
		}
		if r.IntN(3) == 0 {
			b.Metrics = map[string]lab.Metric{"x": {Name: "x", Value: r.NormFloat64() * 1e12, Unit: "B"}}
		}
		b.Moved = lab.Moved{Total: r.Int64N(1e12), Written: r.Int64N(1e9), Read: r.Int64N(1e9)}
		b.Ended = before(time.Second)
		s.Boots[b.ID] = b
	}
	if r.IntN(3) > 0 {
		catalogue(&s)
	}
	return s
}

// What a person may press.
func someKeys() (all []string) {
	for _, a := range action.Table {
		all = append(all, a.Keys...)
	}
	all = append(all, "esc", "esc", "enter", "enter", "tab", "up", "down", "left", "right", "backspace", " ", "ctrl+w", "pgup", "pgdown", "home", "end", "j", "j", "k", "o", "1", "ä", "日")
	return all
}

// TestAnyKeysAnySize presses ten thousand keys in windows of any size: no panic, every picture has the window's size,
// and the selected row is always among those shown.
func TestAnyKeysAnySize(t *testing.T) {
	pressed := 10000
	if testing.Short() {
		pressed = 1000
	}
	r := rand.New(rand.NewPCG(7, 77))
	keys := someKeys()
	m, _ := newTest(t, carte(), 80, 24, Options{})
	var trail []string
	for i := range pressed {
		switch {
		case r.IntN(12) == 0:
			m.Update(tea.WindowSizeMsg{Width: 20 + r.IntN(281), Height: 5 + r.IntN(96)})
		case r.IntN(40) == 0:
			s := anything(r)
			m.Update(wakeMsg{at: noon.Add(time.Duration(i) * time.Second), snap: &s})
		case r.IntN(15) == 0:
			m.tell(talk())
		}
		k := keys[r.IntN(len(keys))]
		trail = append(trail, k)
		m.tap(strings.ReplaceAll(k, " ", "space"))
		if i%4 != 0 && i < pressed-50 {
			continue
		}
		view := m.View()
		fitsIn(t, view, m.w, m.h)
		if lists[m.at.at] && m.over == nil && m.h >= low && len(m.rowKeys()) > 0 && !strings.Contains(ansi.Strip(view), "\n >") && !strings.Contains(ansi.Strip(view), "\n>") && !strings.Contains(ansi.Strip(view), "\n│ >") {
			t.Errorf("the selected row is not shown at %s in %dx%d:\n%s", m.at.address(m.snap()), m.w, m.h, ansi.Strip(view))
		}
		if t.Failed() {
			t.Fatalf("after %d keys, the last %q, at %s, %dx%d", i, trail[max(0, len(trail)-20):], m.at.address(m.snap()), m.w, m.h)
		}
	}
}

var lists = map[action.Place]bool{action.Machines: true, action.Queue: true, action.Images: true, action.Stacks: true, action.Compose: true, needs: true}

// TestEverySize draws every place in every size from 1x1 up to 130x45.
func TestEverySize(t *testing.T) {
	for _, f := range frames {
		m, _ := newTest(t, f.lab(), 80, 24, Options{})
		m.tap(f.keys)
		for w := 1; w <= 130; w += 1 + w/20 {
			for h := 1; h <= 45; h += 1 + h/10 {
				m.Update(tea.WindowSizeMsg{Width: w, Height: h})
				fitsIn(t, m.View(), w, h)
			}
		}
		if t.Failed() {
			t.Fatalf("at %s", f.name)
		}
	}
}

// FuzzText puts text from a machine everywhere where such text is shown.
func FuzzText(f *testing.F) {
	f.Add("login:")
	f.Add("\x1b]0;title\a\x1b[2J\u202eevil\u200b\r\n日本")
	f.Fuzz(func(t *testing.T, text string) {
		s := bench()
		b := s.Boots[74]
		b.Reason, b.Plan.Stack = text, text
		s.Boots[74] = b
		mc := s.Machines[4]
		mc.Parked = text
		s.Machines[4] = mc
		m, _ := newTest(t, s, 80, 24, Options{Mono: true})
		m.Update(wakeMsg{at: noon, turn: m.log.turn, lines: []lab.Line{{Seq: 99, At: noon, Machine: 4, Source: "serial", Text: lab.Clean(text)}}})
		for _, keys := range []string{"", "enter", "esc !", "2"} {
			m.tap(keys)
			view := m.View()
			fitsIn(t, view, 80, 24)
			if strings.ContainsAny(ansi.Strip(view), "\x1b\r\a\b\u202e\u200b\u0085") {
				t.Errorf("text of a machine can steer the terminal: %q", view)
			}
		}
	})
}
