package cli

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"carte/lab"
)

// A command in a sentence is one as far as it is whole; what the sentence goes on with is no part of it.
func TestCommandsInSentences(t *testing.T) {
	c := &call{term: newBench(t).term}
	for sentence, want := range map[string][]string{
		"it was not written; carte image verify tells more":        {"carte image verify"},
		"carte image verify debian@2 tells more":                   {"carte image verify debian@2"},
		"vm-1 is parked: x; carte boot retry lifts that":           nil,
		"carte boot retry 3 lifts that":                            {"carte boot retry 3"},
		"carte machine show lists its disks":                       nil,
		"carte boot stop 3: stops it, carte machine show lists it": {"carte boot stop 3"},
		"what carte does": nil,
		"stack demo is there already; carte stack rm demo takes it away": {"carte stack rm demo"},
		"carte bogus verify":           nil,
		"nothing listens: carte serve": {"carte serve"},
	} {
		if got := c.fixes(fmt.Errorf("%s: %w", sentence, lab.ErrDamaged), nil); !slices.Equal(got, want) {
			t.Errorf("%s: fix %q, want %q", sentence, got, want)
		}
	}
}

// With --json standard error has documents too, and what the document says is not said beside it.
func TestNotesBesideDocuments(t *testing.T) {
	b := newBench(t)
	b.in = "x"
	b.ok("image import - --name broken")
	for _, line := range []string{"fsck --json", "gc --dry-run --json"} {
		_, errs, _ := b.run(strings.Fields(line)...)
		for _, l := range strings.Split(strings.TrimSpace(errs), "\n") {
			if l != "" && (!json.Valid([]byte(l)) || strings.Contains(l, `"note"`)) {
				t.Errorf("carte %s says %q beside its document", line, l)
			}
		}
	}
	b.ok("machine add vm-1 --virtual")
	b.ok("stack new s --system broken")
	_, errs, code := b.run("boot", "s", "--on", "vm-1", "--json")
	var doc struct{ Note string }
	if err := json.Unmarshal([]byte(errs), &doc); err != nil || code != 0 || !strings.Contains(doc.Note, "no lab runs") {
		t.Errorf("exit %d, a note is no document: %q", code, errs)
	}
}
