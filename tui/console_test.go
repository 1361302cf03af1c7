package tui

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// The console is another program's, which has the terminal until it ends; where there is none, the reason is said.
func TestConsole(t *testing.T) {
	for on, says := range map[string]string{"nuc-1": "nuc-1 is a real machine", "vm-1": "vm-1 is off", "vm-2": "from a shell: carte console vm-2"} {
		m, _ := newTest(t, bench(), 80, 24, Options{})
		m.sel(on)
		if m.tap("o"); !strings.Contains(m.flash.text, says) {
			t.Errorf("o on %s: %q, want %q", on, m.flash.text, says)
		}
	}
	var asked []string
	m, _ := newTest(t, bench(), 80, 24, Options{Program: func(args ...string) ([]string, error) { asked = args; return []string{"true"}, nil }})
	m.sel("vm-2")
	if cmd := m.console(); cmd == nil || !reflect.DeepEqual(asked, []string{"console", "vm-2"}) || m.command != "carte console vm-2" {
		t.Errorf("o on vm-2 runs %q (%s)", asked, m.command)
	}
	file := filepath.Join(t.TempDir(), "ran")
	x := &takeover{&Options{In: os.Stdin, Out: os.Stderr}, []string{"touch", file}}
	if err := x.Run(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
	m.Update(left{"the console of vm-2", os.ErrClosed})
	if !strings.Contains(m.flash.text, "carte console vm-2 says more") {
		t.Errorf("it failed: %q", m.flash.text)
	}
}
