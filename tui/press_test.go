package tui

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"

	"carte/lab"
	"carte/tui/action"
)

// Every row of the table that says no verb is something that the screen does, and everything that the screen does is in
// the table.
func TestEveryActionDoesSomething(t *testing.T) {
	long := map[string]bool{"image.import": true, "image.export": true, "image.verify": true, "store.gc": true, "store.fsck": true, "stack.fix": true, "stack.diff": true}
	for _, a := range action.Table {
		if a.Verb == nil && a.Edit == nil && screens[a.ID] == nil && !long[a.ID] {
			t.Errorf("%s (%s) does nothing on the screen", a.ID, a.Words)
		}
	}
	for id := range screens {
		if _, ok := action.ByID(id); !ok {
			t.Errorf("the screen does %s, which the table does not have", id)
		}
	}
	for id := range ranks {
		if _, ok := action.ByID(id); !ok {
			t.Errorf("the hints rank %s, which the table does not have", id)
		}
	}
	for id := range relevant {
		if _, ok := action.ByID(id); !ok {
			t.Errorf("%s helps out of trouble and is not in the table", id)
		}
	}
}

// sel selects a machine by its name.
func (m *model) sel(name string) {
	mc, _ := m.snap().Find(name)
	m.list().key = fmt.Sprint(mc.ID)
	m.list().settle(m.rowKeys())
}

func TestVerbs(t *testing.T) {
	for _, c := range []struct {
		on, keys, text, after string
		want                  lab.Verb
		command               string
	}{
		{"nuc-2", "b", "hpt-3", "enter", lab.Queue{Machine: "nuc-2", Stack: "hpt-3"}, "carte boot hpt-3 --on nuc-2"},
		{"nuc-2", "x x", "", "", lab.Stop{Boot: 77}, "carte boot stop 77"},
		{"nuc-2", "x y", "", "", nil, ""},
		{"xeon-a", "r", "", "", lab.Retry{Boot: 74}, "carte boot retry 74"},
		{"vm-1", "p", "on", "enter", lab.PowerMachine{Machine: "vm-1", Want: "on"}, "carte machine power vm-1 on"},
		{"nuc-2", "p", "cy", "enter p", lab.PowerMachine{Machine: "nuc-2", Want: "cycle"}, "carte machine power nuc-2 cycle"},
		{"nuc-2", "p", "cy", "enter n", nil, ""},
		{"nuc-2", "p", "off", "enter enter", lab.PowerMachine{Machine: "nuc-2", Want: "off"}, "carte machine power nuc-2 off"},
		{"nuc-2", "x enter", "", "", nil, ""},
		{"nuc-2", "p", "cy", "esc", nil, ""},
		{"00:1b:21:5e:2f:a1", "a", "nuc-9", "enter", lab.Adopt{Machine: "00:1b:21:5e:2f:a1", Name: "nuc-9"}, "carte machine adopt 00:1b:21:5e:2f:a1 --name nuc-9"},
		{"vm-2", "D", "vm-2", "enter", lab.Forget{Machine: "vm-2", Confirm: "vm-2"}, "carte machine forget vm-2 --confirm vm-2"},
		{"vm-2", "D", "vm-1", "enter", nil, ""},
		{"vm-2", "D", "", "enter", nil, ""},
	} {
		m, desk := newTest(t, bench(), 80, 24, Options{})
		m.sel(c.on)
		m.tap(c.keys)
		m.typeText(c.text)
		m.tap(c.after)
		var got lab.Verb
		if len(desk.said) > 0 {
			got = desk.said[0]
		}
		if !reflect.DeepEqual(got, c.want) || m.command != c.command {
			t.Errorf("%s on %s, %q, %s: said %#v (%s), want %#v (%s)\n%s", c.keys, c.on, c.text, c.after, got, m.command, c.want, c.command, ansi.Strip(m.View()))
		}
	}
}

// What cannot be done says why, and does nothing.
func TestReasons(t *testing.T) {
	m, desk := newTest(t, bench(), 80, 24, Options{})
	m.sel("vm-1")
	m.tap("x")
	if len(desk.said) > 0 || m.sure != nil || !strings.Contains(m.flash.text, "no boot to stop") {
		t.Errorf("said %v, flash %q", desk.said, m.flash.text)
	}
}

type refuser struct{ still }

func (*refuser) Say(context.Context, lab.Verb) (lab.Changed, error) {
	return lab.Changed{}, fmt.Errorf("vm-1 is busy with boot 3; carte boot stop 3 comes first: %w", lab.ErrBusy)
}

// The lab's refusals are shown as they are, without the name of their kind, and can be read again.
func TestRefusals(t *testing.T) {
	m, _ := newTest(t, bench(), 80, 24, Options{})
	m.desk = &refuser{}
	m.sel("xeon-a")
	m.tap("r")
	if m.flash.text != "vm-1 is busy with boot 3; carte boot stop 3 comes first" {
		t.Errorf("flash = %q", m.flash.text)
	}
	m.tap("!")
	if v := ansi.Strip(m.View()); !strings.Contains(v, "carte boot stop 3 comes first") {
		t.Errorf("the refusal cannot be read again:\n%s", v)
	}
}

func TestPlacesHaveAddresses(t *testing.T) {
	s := bench()
	m, _ := newTest(t, s, 80, 24, Options{})
	for _, address := range []string{"machines", "queue", "images", "stacks", "log", "needs", "machines/nuc-2", "machines/nuc-2/log", "machines/nuc-2/boot/77", "images/debian"} {
		p, err := parsePlace(s, address)
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		if got := p.address(s); got != address {
			t.Errorf("%s leads to %s", address, got)
		}
		m.goTo(p)
		fitsIn(t, m.View(), 80, 24)
	}
	for _, address := range []string{"moon", "machines/nuc-77", "machines/nuc-2/boot/74", "machines/nuc-2/x", "images/none", "queue/7"} {
		if p, err := parsePlace(s, address); err == nil {
			t.Errorf("%s leads to %v", address, p)
		}
	}
}

func TestStartAndBack(t *testing.T) {
	m, _ := newTest(t, bench(), 80, 24, Options{Start: "machines/nuc-2/log"})
	if m.at.at != action.Log || m.log.whose != 2 {
		t.Fatalf("started at %+v with the log of %d", m.at, m.log.whose)
	}
	m.tap("q")
	if m.at.at != action.Machines {
		t.Errorf("q led to %+v", m.at)
	}
	if !m.tap("q") {
		t.Error("q at the top does not leave")
	}
}

// A place whose machine was forgotten is left.
func TestSubjectGone(t *testing.T) {
	m, _ := newTest(t, bench(), 80, 24, Options{Start: "machines/nuc-2"})
	s := bench()
	delete(s.Machines, 2)
	m.Update(wakeMsg{at: noon, snap: &s})
	if m.at.at != action.Machines {
		t.Errorf("still at %+v", m.at)
	}
}

func TestLeaveAsks(t *testing.T) {
	m, _ := newTest(t, bench(), 80, 24, Options{Leave: func(lab.Snapshot) string { return "vm-1 is still booting" }})
	if m.tap("q") || !strings.Contains(m.View(), "q again to leave: vm-1 is still booting; any other key: no") {
		t.Errorf("q did not ask:\n%s", m.View())
	}
	if m.tap("j") || m.tap("q") || !m.tap("q") {
		t.Error("another key stays, q twice leaves")
	}
}

// The selection stays with its machine when the rows are sorted anew.
func TestSelectionStays(t *testing.T) {
	m, _ := newTest(t, bench(), 80, 24, Options{})
	m.sel("nuc-1")
	s := bench()
	b := s.Boots[76]
	b.State, b.Ended = lab.Failed, noon
	s.Boots[76] = b
	m.Update(wakeMsg{at: noon, snap: &s})
	if v := ansi.Strip(m.View()); !strings.Contains(v, "> nuc-1      ✗ failed") {
		t.Errorf("the selection did not stay with nuc-1:\n%s", v)
	}
}

// A table that is wider and longer than the window can be read to its end.
func TestPagerMoves(t *testing.T) {
	wide := strings.Repeat("x", 150) + "END"
	m, _ := newTest(t, bench(), 80, 24, Options{Command: func(context.Context, string) (string, error) {
		return strings.Repeat("row\n", 50) + wide + "\n", nil
	}})
	m.tap(":")
	m.typeText("kind ls")
	m.tap("enter G l l l")
	if v := ansi.Strip(m.View()); !strings.Contains(v, "xEND") || !strings.Contains(v, "h l j k move") {
		t.Errorf("the end is not shown:\n%s", v)
	}
	fitsIn(t, m.View(), 80, 24)
}

// An image that is needed is not asked about: what needs it is said.
func TestNeededImageIsNotAskedAbout(t *testing.T) {
	m, _ := newTest(t, bench(), 80, 24, Options{})
	if m.tap("3 D"); m.over != nil || !strings.Contains(m.flash.text, "is needed by stacks hpt-0") {
		t.Errorf("D on debian says %q, asks %T", m.flash.text, m.over)
	}
}

// What is typed after ':' is done to what it names, wherever one is and whatever is selected.
func TestTypedNames(t *testing.T) {
	for _, c := range []struct{ at, typed, ran, stack, says string }{
		{"4", "stack check demo", "", "demo", ""},
		{"1", "stack check demo", "", "demo", ""},
		{"1", "stack check nope", "", "", "there is no stack nope"},
		{"1", "stack check", "", "", "no stack is selected"},
		{"4", "stack edit nope", "", "", "there is no stack nope"},
		{"4", "stack edit demo --set note=hi", "stack edit demo --set note=hi", "", ""},
		{"4", "stack check demo --machine vm-1", "stack check demo --machine vm-1", "", ""},
		{"1", "console nuc-1", "", "", "nuc-1 is a real machine"},
	} {
		ran := ""
		m, _ := newTest(t, bench(), 80, 24, Options{Command: func(_ context.Context, line string) (string, error) { ran = line; return "", nil }})
		m.tap(c.at + " :")
		m.typeText(c.typed)
		m.tap("enter")
		if ran != c.ran || m.at.stack != c.stack || c.says != "" && !strings.Contains(m.flash.text, c.says) {
			t.Errorf("%s :%s ran %q, is at %+v and says %q", c.at, c.typed, ran, m.at, m.flash.text)
		}
	}
}

func TestCommandLine(t *testing.T) {
	var ran []string
	o := Options{Command: func(_ context.Context, line string) (string, error) {
		ran = append(ran, line)
		if strings.HasPrefix(line, "bad") {
			return "", errors.New("bad is no command")
		}
		return "NAME\nnuc-1\nnuc-2\n", nil
	}}
	m, desk := newTest(t, bench(), 80, 24, o)
	m.tap(":")
	m.typeText("machine ls")
	m.tap("enter")
	if fmt.Sprint(ran) != "[machine ls]" || !strings.Contains(m.View(), "nuc-2") || m.command != "carte machine ls" {
		t.Errorf("ran %v, command %q", ran, m.command)
	}
	if _, ok := m.over.(*pager); !ok {
		t.Errorf("its output is not shown: %T", m.over)
	}
	m.tap("esc :")
	m.typeText("carte bad thing")
	m.tap("enter")
	if m.flash.text != "bad is no command" {
		t.Errorf("flash = %q", m.flash.text)
	}
	m.tap(":")
	m.typeText("go images/debian")
	m.tap("enter")
	if m.at.image != "debian" {
		t.Errorf("at %+v", m.at)
	}
	m.tap(":")
	m.typeText("machines")
	m.tap("enter")
	m.sel("xeon-a")
	m.tap(": up up up")
	if p := m.over.(*palette); p.line.text() != "carte bad thing" && p.line.text() != "bad thing" {
		t.Errorf("recalled %q", p.line.text())
	}
	m.tap("esc :")
	m.typeText("boot ret")
	m.tap("tab enter")
	if fmt.Sprint(desk.said) != "[{74}]" {
		t.Errorf("said %v", desk.said)
	}
}

func TestLog(t *testing.T) {
	m, _ := newTest(t, bench(), 80, 24, Options{})
	m.tap("L")
	m.goTo(place{at: action.Log})
	var many []lab.Line
	for i := range 3 * keptLines {
		many = append(many, lab.Line{Seq: int64(i), At: noon, Machine: 1, Source: "serial", Text: fmt.Sprintf("line %d", i)})
	}
	m.tell(many[:100])
	if v := m.View(); !strings.Contains(v, "line 99") {
		t.Errorf("the newest line is not in view:\n%s", v)
	}
	m.tap("k k k")
	if v := m.View(); strings.Contains(v, "line 97") || !strings.Contains(v, "line 96") || !strings.Contains(v, "stopped") {
		t.Errorf("three up from the newest:\n%s", v)
	}
	m.tell(many[100:200])
	if v := m.View(); !strings.Contains(v, "line 96") || strings.Contains(v, "line 97") || !strings.Contains(v, "100 new") {
		t.Errorf("new lines moved the view:\n%s", v)
	}
	m.tap("f")
	if v := m.View(); !strings.Contains(v, "line 199") {
		t.Errorf("f does not follow:\n%s", v)
	}
	m.tap("/")
	m.typeText("line 15 !150")
	m.tap("enter")
	if v := m.View(); !strings.Contains(v, "line 159") || strings.Contains(v, "line 150") || strings.Contains(v, "line 160") {
		t.Errorf("the filter keeps the wrong lines:\n%s", v)
	}
	m.Update(wakeMsg{at: noon, turn: m.log.turn, lost: 312, lines: many[200:]})
	if len(m.log.lines) > 2*keptLines {
		t.Errorf("%d lines are kept", len(m.log.lines))
	}
	m.tap("esc")
	if v := m.View(); !strings.Contains(v, fmt.Sprintf("line %d", len(many)-1)) || !strings.Contains(v, "312 lost") {
		t.Errorf("after a flood:\n%s", v)
	}
	m.tap("w t g")
	fitsIn(t, m.View(), 80, 24)
}

func TestLostLinesAreShown(t *testing.T) {
	m, _ := newTest(t, bench(), 80, 24, Options{})
	m.Update(wakeMsg{at: noon, turn: m.log.turn, lost: 312, lines: talk()[:1]})
	if v := m.View(); !strings.Contains(v, "… 312 lines not kept") {
		t.Errorf("lost lines are not shown:\n%s", v)
	}
}

// Export never overwrites, and leaves nothing when it fails.
func TestExport(t *testing.T) {
	dir := t.TempDir()
	m, _ := newTest(t, bench(), 80, 24, Options{})
	there := filepath.Join(dir, "there")
	if err := os.WriteFile(there, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{there, filepath.Join(dir, "new")} {
		m.tap("3 e")
		m.typeText(name)
		m.tap("enter")
	}
	if got, _ := os.ReadFile(there); string(got) != "mine" {
		t.Error("export wrote over a file")
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("a failed export left %v", left)
	}
}

func TestCopy(t *testing.T) {
	m, _ := newTest(t, bench(), 80, 24, Options{})
	var out strings.Builder
	m.out = &out
	m.sel("xeon-a")
	m.tap("y r y")
	if out.String() != ansi.SetSystemClipboard("carte machine show xeon-a")+ansi.SetSystemClipboard("carte boot retry 74") {
		t.Errorf("wrote %q", out.String())
	}
}

func TestEnvironment(t *testing.T) {
	for _, c := range []struct {
		env         map[string]string
		ascii, mono bool
	}{
		{map[string]string{}, false, false},
		{map[string]string{"LANG": "C.UTF-8", "TERM": "xterm-256color"}, false, false},
		{map[string]string{"LANG": "C"}, true, false},
		{map[string]string{"LANG": "de_DE.utf8", "LC_ALL": "POSIX"}, true, false},
		{map[string]string{"CARTE_ASCII": "1"}, true, false},
		{map[string]string{"TERM": "linux"}, true, false},
		{map[string]string{"NO_COLOR": "1"}, false, true},
		{map[string]string{"TERM": "dumb"}, true, true},
	} {
		o := Options{Env: func(k string) string { return c.env[k] }}
		o.defaults()
		if o.ASCII != c.ascii || o.Mono != c.mono {
			t.Errorf("%v: ascii %v, mono %v", c.env, o.ASCII, o.Mono)
		}
	}
}

// View draws only when something changed.
func TestViewIsCached(t *testing.T) {
	m, _ := newTest(t, bench(), 80, 24, Options{})
	m.View()
	n := m.drawnTimes
	m.Update(struct{}{})
	m.View()
	m.View()
	if m.drawnTimes != n {
		t.Errorf("drawn %d times more", m.drawnTimes-n)
	}
	m.Update(wakeMsg{at: noon.Add(time.Second)})
	if m.View(); m.drawnTimes != n+1 {
		t.Errorf("a second later drawn %d times more", m.drawnTimes-n)
	}
}
