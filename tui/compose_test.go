package tui

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"

	"carte/lab"
	"carte/lab/chunk"
	"carte/tui/action"
)

// carte is a lab with a stack of images of every form.
func carte() lab.Snapshot {
	s := bench()
	put := func(name, kind string, form lab.Form, latest int, content int64, more func(*lab.Image, *lab.Version)) {
		im := lab.Image{Name: name, Kind: kind, Form: form, Latest: latest}
		for n := 1; n <= latest; n++ {
			v := lab.Version{Image: name, Number: n, Root: chunk.Sum([]byte(fmt.Sprint(name, n))), Bytes: content * 2, Content: content, Stored: content / 3, Author: "you", At: before(time.Duration(latest-n+1) * 9 * time.Hour)}
			if more != nil {
				more(&im, &v)
			}
			s.Versions[v.Ref().String()] = v
		}
		s.Images[name] = im
	}
	put("arch", "system", lab.FormTree, 13, 19.9e9, nil)
	put("hpt-2", "system", lab.FormKernel, 4, 12.4e6, nil)
	put("tools", "user", lab.FormFiles, 2, 1.2e9, func(_ *lab.Image, v *lab.Version) { v.Place = "/home/me" })
	put("rq", "project", lab.FormFiles, 31, 220e6, func(_ *lab.Image, v *lab.Version) { v.Offers = lab.Terms{lab.Autostart: lab.Required} })
	put("scratch", "temporary", lab.FormFiles, 1, 8e9, func(im *lab.Image, _ *lab.Version) { im.Dies = noon.Add(30 * time.Hour) })
	put("probe", "machine", lab.FormFiles, 7, 38e6, func(im *lab.Image, _ *lab.Version) { im.Owner = "nuc-2" })
	s.Stacks["a-la-carte"] = lab.Stack{
		Name: "a-la-carte", Layers: []lab.Ref{{Name: "arch", Version: 12}, {Name: "hpt-2"}, {Name: "tools"}, {Name: "rq"}, {Name: "scratch"}},
		Cmdline: "rw hugepages={pages} isolcpus=2,3", Params: map[string]string{"pages": "0"}, Asks: lab.Terms{lab.Lazy: lab.Optional}, Since: before(99 * time.Hour),
	}
	s.Stacks["a-la-carte-1"] = lab.Stack{Name: "a-la-carte-1", Layers: []lab.Ref{{Name: "arch", Version: 12}, {Name: "hpt-2", Version: 3}, {Name: "tools"}, {Name: "rq"}, {Name: "scratch"}}, Cmdline: "rw hugepages={pages} isolcpus=2,3", Params: map[string]string{"pages": "0"}}
	b := s.Boots[73]
	b.ID, b.Machine, b.State = 154, 6, lab.Done
	b.Plan = lab.Plan{Stack: "a-la-carte", Form: lab.FormTree, Start: lab.StartNetboot, Until: lab.RungCollect, Params: map[string]string{"pages": "512"}, Agreed: judged(s.Stacks["a-la-carte"]).Agreed, Layers: []lab.PlanLayer{layer("arch", 12, 40e9), layer("hpt-2", 4, 24e6)}}
	b.Results = []lab.Result{{Path: "log.txt", Bytes: 300}, {Path: "deep/runs.csv", Bytes: 2e6}}
	b.Wrote = []lab.Ref{{Name: "tools", Version: 3}}
	over := slices.IndexFunc(b.Climbs, func(c lab.Climb) bool { return c.Rung == lab.RungHandover })
	b.Climbs = slices.Insert(slices.Clone(b.Climbs), over, lab.Climb{Rung: lab.RungPrepare, At: b.Climbs[over].At.Add(-60 * time.Millisecond), Attempt: 1})
	s.Boots[154] = b
	s.LastBoot = 154
	return s
}

// judged is what the still desk says of a stack.
func judged(st lab.Stack) lab.Judged {
	fixed := st
	fixed.Cmdline = "console=ttyS0 " + st.Cmdline
	j := lab.Judged{Stack: st.Name, Fingerprint: "carte:7f3a-91c2-55e0", OK: true, Remarks: []lab.Remark{
		{Code: "I-SYSTEM", Grade: lab.GradeGood, Text: "one root, arch@12, under the kernel of hpt-2@4"},
		{Code: "W-PATHS", Grade: lab.GradeWarn, Text: "/etc/X11/xorg.conf is in arch and in tools: tools wins"},
		{Code: "I-CLAUSE", Grade: lab.GradeGood, Text: "results: what lies in /carte/out is taken home"},
	}, Agreed: []lab.Agreed{
		{Clause: lab.Overlay, Need: lab.Optional, Given: true}, {Clause: lab.Heartbeat, Need: lab.Optional, Given: true},
		{Clause: lab.Autostart, Need: lab.Required, Given: true, By: []lab.Ref{{Name: "rq", Version: 31}}}, {Clause: lab.Results, Need: lab.Optional, Given: true},
		{Clause: lab.Lazy, Need: lab.Optional, Why: "no image offers it; all bytes are there before the system starts"},
	}, Machines: []lab.JudgedMachine{
		{Machine: "nuc-1", OK: true, Start: lab.StartKexec, Moves: 12.4e6, Ready: 6.2, ReadyFrom: "the median of 5 boots here"},
		{Machine: "nuc-2", OK: true, Start: lab.StartNetboot},
		{Machine: "vm-1", Remarks: []lab.Remark{{Code: "E-FITS", Grade: lab.GradeStop, Text: "its disk has 4.0 GB, and the stack needs 21.3 GB", Fix: "carte machine arm vm-1 --disk SERIAL"}}},
	}}
	if !strings.HasPrefix(st.Cmdline, "console") {
		j.Remarks = append(j.Remarks, lab.Remark{Code: "W-CONSOLE", Grade: lab.GradeWarn, Text: "no console=ttyS0 on the kernel line: its kernel is not heard on the serial line", Edited: &fixed})
	}
	return j
}

// composer opens the stack of every form.
func composer(t *testing.T) (*model, *still) {
	t.Helper()
	m, desk := newTest(t, carte(), 120, 40, Options{})
	m.tap("4")
	m.list().key = "a-la-carte"
	m.tap("enter")
	if m.at != (place{at: action.Compose, stack: "a-la-carte"}) {
		t.Fatalf("enter on a stack leads to %+v", m.at)
	}
	return m, desk
}

func (m *model) layersNow() string { return fmt.Sprint(m.composed().st.Layers) }

func TestCompose(t *testing.T) {
	for _, c := range []struct{ on, keys, text, after, layers, command string }{
		{"rq", "x", "", "", "[arch@12 hpt-2 tools scratch]", "carte stack edit a-la-carte --set layers=arch@12,hpt-2,tools,scratch"},
		{"rq", "K", "", "", "[arch@12 hpt-2 tools scratch rq]", "carte stack edit a-la-carte --set layers=arch@12,hpt-2,tools,scratch,rq"},
		{"rq", "J J", "", "", "[arch@12 rq hpt-2 tools scratch]", "carte stack edit a-la-carte --set layers=arch@12,rq,hpt-2,tools,scratch"},
		{"hpt-2", "v", "3", "enter", "[arch@12 hpt-2@3 tools rq scratch]", "carte stack edit a-la-carte --set layers=arch@12,hpt-2@3,tools,rq,scratch"},
		{"arch", "v", "newest", "enter", "[arch hpt-2 tools rq scratch]", "carte stack edit a-la-carte --set layers=arch,hpt-2,tools,rq,scratch"},
		{"rq", "a", "x11", "enter", "[arch@12 hpt-2 tools rq scratch x11-tools]", "carte stack edit a-la-carte --set layers=arch@12,hpt-2,tools,rq,scratch,x11-tools"},
		{"rq", "space", "sealed req", "enter", "", "carte stack edit a-la-carte --set asks.sealed=required"},
		{"rq", "space", "lazy not", "enter", "", "carte stack edit a-la-carte --set asks.lazy="},
		{"rq", "c ctrl+u", "quiet", "enter", "", "carte stack edit a-la-carte --set cmdline=quiet"},
		{"rq", "c", " quiet", "enter", "", "carte stack edit a-la-carte --set 'cmdline=rw hugepages={pages} isolcpus=2,3 quiet'"},
		{"rq", "c ctrl+u", "", "enter", "", "carte stack edit a-la-carte --set cmdline="},
		{"rq", "p", "pages=512", "enter", "", "carte stack edit a-la-carte --set params.pages=512"},
		{"rq", "f", "", "", "", "carte stack edit a-la-carte --set 'cmdline=console=ttyS0 rw hugepages={pages} isolcpus=2,3'"},
	} {
		m, desk := composer(t)
		m.list().key = c.on
		m.list().settle(m.rowKeys())
		m.tap(c.keys)
		m.typeText(c.text)
		m.tap(c.after)
		if c.layers != "" && m.layersNow() != c.layers {
			t.Errorf("%s on %s: %s, want %s", c.keys, c.on, m.layersNow(), c.layers)
		}
		if m.command != c.command || !m.unsaved() || len(desk.said) > 0 {
			t.Errorf("%s on %s: command %s, want %s; unsaved %v, said %v\n%s", c.keys, c.on, m.command, c.command, m.unsaved(), desk.said, ansi.Strip(m.View()))
		}
		want := lab.PutStack{Stack: m.composed().st, Edit: true}
		if m.tap("s"); len(desk.said) != 1 || !reflect.DeepEqual(desk.said[0], lab.Verb(want)) {
			t.Errorf("saved, it said %+v", desk.said)
		}
	}
}

// What cannot be done says why, and leaves the stack as it is.
func TestComposeReasons(t *testing.T) {
	for _, c := range []struct{ on, keys, says string }{
		{"scratch", "K", "there is no layer beyond it"},
		{"arch", "J", "there is no layer beyond it"},
		{"probe", "x", "probe joins by itself"},
		{"rq", "s", "it is saved already"},
		{"rq", "x b", "save it first: s"},
		{"rq", "x t", "save it first: s"},
		{"rq", "x d", "save it first: s"},
	} {
		m, desk := composer(t)
		m.list().key = c.on
		m.list().settle(m.rowKeys())
		if m.tap(c.keys); !strings.Contains(m.flash.text, c.says) || len(desk.said) > 0 {
			t.Errorf("%s on %s: %q, want %q; said %v", c.keys, c.on, m.flash.text, c.says, desk.said)
		}
	}
}

// What was changed stays while one is elsewhere, is asked for before the screen is left, and is gone with its stack.
func TestUnsavedStays(t *testing.T) {
	m, _ := composer(t)
	m.list().key = "rq"
	m.tap("x 1 4")
	m.list().key = "a-la-carte"
	m.tap("enter")
	if !m.unsaved() || strings.Contains(m.layersNow(), "rq") || !strings.Contains(ansi.Strip(m.View()), "Stacks > a-la-carte *unsaved") {
		t.Errorf("after a visit elsewhere: %s\n%s", m.layersNow(), ansi.Strip(m.View()))
	}
	m.tap("1")
	if m.tap("q") || m.sure == nil || !strings.Contains(m.sure.what, "stack a-la-carte is not saved") {
		t.Errorf("q: %+v", m.sure)
	}
	m.tap("x 4")
	m.list().key = "a-la-carte"
	m.tap("enter")
	s := carte()
	delete(s.Stacks, "a-la-carte")
	m.Update(wakeMsg{at: noon, snap: &s})
	if m.at != (place{at: action.Stacks}) || m.losing() != "" {
		t.Errorf("its stack is gone, and it is at %+v: %s", m.at, m.losing())
	}
}

// A stack that nobody changes here follows the lab; one that is changed here says so.
func TestComposeFollowsTheLab(t *testing.T) {
	theirs := func(m *model) {
		s := carte()
		st := s.Stacks["a-la-carte"]
		st.Cmdline = "theirs"
		s.Stacks["a-la-carte"] = st
		m.Update(wakeMsg{at: noon, snap: &s})
	}
	m, _ := composer(t)
	if theirs(m); m.composed().st.Cmdline != "theirs" || m.unsaved() {
		t.Errorf("unchanged here: %q", m.composed().st.Cmdline)
	}
	m, _ = composer(t)
	m.list().key = "rq"
	m.tap("x")
	if theirs(m); m.composed().st.Cmdline == "theirs" || !strings.Contains(m.flash.text, "changed by somebody else") {
		t.Errorf("changed here: %q, %q", m.composed().st.Cmdline, m.flash.text)
	}
}

// The editor gets the stack as text, and its result is put together; a broken text is opened again at its line.
func TestComposeEditor(t *testing.T) {
	file := filepath.Join(t.TempDir(), "editor")
	if err := os.WriteFile(file, []byte("#!/bin/sh\nsed -i 's/isolcpus=2,3/quiet/' \"$1\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	e := &editorRun{opt: &Options{In: os.Stdin, Out: os.Stderr, Env: func(string) string { return file }}, name: "x", text: []byte("name = \"x\"\ncmdline = \"isolcpus=2,3\"\n")}
	if err := e.Run(); err != nil || !strings.Contains(string(e.text), `cmdline = "quiet"`) {
		t.Errorf("%v: %s", err, e.text)
	}
	m, _ := newTest(t, carte(), 80, 24, Options{})
	m.tap("4")
	m.Update(edited{name: "a-la-carte", text: []byte("name = \"a-la-carte\"\nlayers = [\"arch\"]\n")})
	if m.at.stack != "a-la-carte" || m.layersNow() != "[arch]" || !m.unsaved() {
		t.Errorf("edited: %+v %s", m.at, m.layersNow())
	}
	m.Update(edited{name: "a-la-carte", text: []byte("name = \"a-la-carte\"\nbroken\n")})
	if m.sure == nil || m.sure.key != "e" || !strings.Contains(m.sure.what, "line 2") || m.layersNow() != "[arch]" {
		t.Errorf("broken: %+v", m.sure)
	}
	m.tap("n")
	m.Update(edited{name: "a-la-carte", text: []byte("name = \"other\"\n")})
	if m.sure == nil || !strings.Contains(m.sure.what, `names the stack "other"`) {
		t.Errorf("another name: %+v", m.sure)
	}
}

// Every place that a stack has is one that an address leads to.
func TestComposeAddress(t *testing.T) {
	p := place{at: action.Compose, stack: "a-la-carte"}
	if got, err := parsePlace(carte(), p.address(carte())); err != nil || got != p {
		t.Errorf("%s leads to %+v, %v", p.address(carte()), got, err)
	}
	m, _ := composer(t)
	if keys := m.rowKeys(); !slices.Equal(keys, []string{"scratch", "rq", "tools", "hpt-2", "arch", "probe"}) {
		t.Errorf("rows: %q", keys)
	}
}
