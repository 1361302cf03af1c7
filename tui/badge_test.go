package tui

import (
	"strings"
	"testing"

	"github.com/charmbracelet/x/ansi"

	"carte/lab"
)

// What a contract test has proven is said where an image is shown, and where a stack is put together of it.
func TestBadgeIsShown(t *testing.T) {
	s := carte()
	v := s.Versions["arch@12"]
	s.Badges = map[string]lab.Badge{"arch@12": {Ref: v.Ref(), Root: v.Root, Proofs: []lab.Proof{{Clause: lab.Starts, Verdict: lab.VerdictKept}, {Clause: lab.Overlay, Verdict: lab.VerdictBroken}}}}
	v = s.Versions["rq@31"]
	s.Badges["rq@31"] = lab.Badge{Ref: v.Ref(), Root: v.Root, Proofs: []lab.Proof{{Clause: lab.Starts, Verdict: lab.VerdictKept}, {Clause: lab.Autostart, Verdict: lab.VerdictKept}}}
	m, _ := newTest(t, s, 160, 40, Options{})
	m.tap("3")
	m.list().key = "rq"
	m.list().settle(m.rowKeys())
	m.tap("j k")
	if view := ansi.Strip(m.View()); !strings.Contains(view, "tested   starts, 1 clause kept") {
		t.Errorf("the images:\n%s", view)
	}
	m.tap("4")
	m.list().key = "a-la-carte"
	m.tap("enter")
	for _, words := range []string{"tested: broken", "tested: kept"} {
		if view := ansi.Strip(m.View()); !strings.Contains(view, words) {
			t.Errorf("the composer does not say %q:\n%s", words, view)
		}
	}
}
