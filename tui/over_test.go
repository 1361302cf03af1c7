package tui

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/charmbracelet/x/ansi"
)

// The lines of what is pasted stay apart, however the terminal ends them.
func TestPasteNeverGlues(t *testing.T) {
	for pasted, want := range map[string]string{
		"machine ls\nboot ls":              "machine ls boot ls",
		"machine ls\rboot ls":              "machine ls boot ls",
		"machine ls\r\nboot ls\tall":       "machine ls boot ls all",
		"boot hpt \\\r  --on vm-1":         "boot hpt    --on vm-1",
		"boot hpt\\\n--on vm-1\\\r\n--set": "boot hpt --on vm-1 --set",
	} {
		m, _ := newTest(t, bench(), 80, 24, Options{Command: func(context.Context, string) (string, error) { return "", nil }})
		m.tap(":")
		m.press(press{paste: pasted})
		if got := m.over.(*palette).line.text(); got != want {
			t.Errorf("%q pasted is %q, want %q", pasted, got, want)
		}
	}
}

// What was refused is not said any longer once the answer is another, or the question is left.
func TestRefusalGoesWithItsAnswer(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	const says = "no such file"
	for _, keys := range []string{"ctrl+u", "ctrl+w", "esc", "esc a"} {
		m, _ := newTest(t, bench(), 80, 24, Options{})
		m.tap("3 a")
		m.typeText(none)
		m.tap("enter")
		if !strings.Contains(ansi.Strip(m.View()), says) || !strings.Contains(m.told[len(m.told)-1].text, says) {
			t.Fatalf("it is not refused:\n%s", ansi.Strip(m.View()))
		}
		if m.tap(keys); strings.Contains(ansi.Strip(m.View()), says) {
			t.Errorf("after %s it still stands there:\n%s", keys, ansi.Strip(m.View()))
		}
		if m.tap("esc"); m.lastLine() != "$ carte image show debian" {
			t.Errorf("after %s and esc the last line is %q", keys, m.lastLine())
		}
	}
}

// What the lab refused is not said any longer once what it was said of is mended.
func TestRefusalGoesWithTheNextAction(t *testing.T) {
	m, desk := composer(t)
	m.list().key = "rq"
	m.list().settle(m.rowKeys())
	m.desk = &refuser{}
	if m.tap("x s"); !strings.Contains(m.lastLine(), "comes first") {
		t.Fatalf("the last line is %q", m.lastLine())
	}
	m.desk = desk
	if m.tap("x"); strings.Contains(m.lastLine(), "comes first") {
		t.Errorf("after another change the last line is %q", m.lastLine())
	}
}

// The kernel line is edited, not typed anew.
func TestKernelLineIsThere(t *testing.T) {
	m, _ := composer(t)
	m.tap("c")
	if a, ok := m.over.(*ask); !ok || a.line.text() != m.composed().st.Cmdline || a.line.text() == "" {
		t.Errorf("it begins with %+v", m.over)
	}
}
