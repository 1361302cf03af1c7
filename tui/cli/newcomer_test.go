package cli

import (
	"strings"
	"testing"

	"carte/lab"
)

// What the help, the text of a stack and the plan say of a reset that nobody chose is the same.
func TestDefaultReset(t *testing.T) {
	b := newBench(t)
	b.furnish()
	b.has(b.ok("stack new --help"), "(default "+string(lab.DefaultReset)+")")
	b.has(b.ok("stack show demo --toml"), "left out: "+string(lab.DefaultReset))
	s, err := b.desk.Watch(t.Context(), 0)
	b.must(err)
	p, err := s.Resolve("demo")
	b.must(err)
	if p.Reset != lab.DefaultReset {
		t.Errorf("the plan proves %s", p.Reset)
	}
}

// has ends the test unless a text says all of that.
func (b *bench) has(text string, want ...string) {
	b.t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			b.t.Fatalf("%q is not in:\n%s", w, text)
		}
	}
}
