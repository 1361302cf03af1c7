package tui

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/charmbracelet/x/ansi"

	"carte/lab"
)

var update = flag.Bool("update", false, "write the golden frames anew")

// frames are the pictures that are kept, by how one gets there.
var frames = []struct {
	name string
	keys string
	lab  func() lab.Snapshot
}{
	{"machines", "j j j", bench},
	{"empty", "", func() lab.Snapshot {
		return lab.Snapshot{Rev: 1, Services: map[string]lab.Service{"dhcp": {Name: "dhcp", State: "serving", OK: true, Note: "eth1 10.77.0.1/24"}}}
	}},
	{"queue", "2 j j j j j", bench},
	{"images", "3", bench},
	{"versions", "3 enter j", bench},
	{"stacks", "4 j", bench},
	{"compose", "4 enter j", carte},
	{"compose-edited", "4 enter j x", carte},
	{"boot-composed", "/ v m - 1 enter enter", carte},
	{"boot", "/ n u c - 2 enter enter", bench},
	{"stuck", "/ o p t i - 9 enter enter", bench},
	{"log", "/ n u c - 2 enter L", bench},
	{"needs", "! j j", bench},
	{"help", "? down down", bench},
	{"command", ": b o o", bench},
	{"ask", "/ v m - 2 enter b", bench},
	{"sure", "/ n u c - 2 enter x", bench},
	{"confirm", "3 j j D", bench},
	{"filter", "/ n u c", bench},
}

var sizes = []struct {
	name string
	w, h int
	opt  Options
}{
	{"80x24", 80, 24, Options{}},
	{"120x40", 120, 40, Options{}},
	{"40x12", 40, 12, Options{}},
	{"60x16-ascii-mono", 60, 16, Options{ASCII: true, Mono: true}},
}

func TestFrames(t *testing.T) {
	for _, f := range frames {
		for _, s := range sizes {
			t.Run(f.name+"-"+s.name, func(t *testing.T) {
				m, _ := newTest(t, f.lab(), s.w, s.h, s.opt)
				m.tap(f.keys)
				view := m.View()
				fitsIn(t, view, s.w, s.h)
				golden(t, f.name+"-"+s.name, ansi.Strip(view)+"\n")
			})
		}
	}
}

// The styles of one frame: colours, and what stands for them without.
func TestStyles(t *testing.T) {
	for name, o := range map[string]Options{"colour": {}, "mono": {Mono: true}} {
		m, _ := newTest(t, bench(), 80, 24, o)
		m.tap("j j j")
		golden(t, "styles-"+name, strings.ReplaceAll(m.View(), "\x1b", "^")+"\n")
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v; make golden writes it", err)
	}
	if got != string(want) {
		t.Errorf("%s differs (make golden writes it anew):\n%s\nwant:\n%s", file, got, want)
	}
}

// fitsIn checks that a picture has the size of its window.
func fitsIn(t testing.TB, view string, w, h int) {
	t.Helper()
	lines := strings.Split(view, "\n")
	if len(lines) != max(h, 1) {
		t.Errorf("%d lines in a window of %d", len(lines), h)
	}
	for i, l := range lines {
		if n := ansi.StringWidth(l); n > w {
			t.Errorf("line %d has %d cells in a window of %d: %q", i, n, w, l)
		}
	}
}
