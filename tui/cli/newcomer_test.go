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

// A command that cannot make a lab makes none, and a folder that nobody named is not asked for.
func TestNoLabThere(t *testing.T) {
	b := newBench(t)
	b.furnish()
	b.there = func(dir string) bool { return dir != b.dir }
	for _, line := range []string{"status", "image ls", "stack show demo", "boot stop 2", "doctor", "gc", "image rm demo --confirm demo"} {
		_, errs, code := b.run(strings.Fields(line)...)
		if code != 3 || !strings.Contains(errs, "there is no lab in "+b.dir) || !strings.Contains(errs, "try: carte serve --state "+b.dir) {
			t.Errorf("carte %s: exit %d, %s", line, code, errs)
		}
	}
	b.ok("machine add vm-7 --virtual")
	b.term.Env = func(name string) string { return map[string]string{"HOME": b.dir}[name] }
	if _, errs, code := b.carry([]string{"image", "ls"}); code != 0 {
		t.Errorf("in the default folder: exit %d, %s", code, errs)
	}
}

// What went well is not to be tried again.
func TestWaitForWhatNeverComes(t *testing.T) {
	b := newBench(t)
	b.furnish()
	s, err := b.desk.Watch(t.Context(), 0)
	b.must(err)
	c := &call{term: b.term}
	_, _, err = c.waitBoot(t.Context(), b.desk, 1, "failed", 0)
	if err == nil || err.Error() != "boot 1 is done; it does not become failed any more" {
		t.Errorf("the wait ends with %v", err)
	}
	if fix := c.fixes(err, nil); len(fix) > 0 || s.Boots[1].State != lab.Done {
		t.Errorf("of boot 1, %s, is said: %s", s.Boots[1].State, fix)
	}
}

// A stop that the machine has not heard yet is told as one.
func TestStopIsAsked(t *testing.T) {
	b := newBench(t)
	b.furnish()
	_, o, key := b.claim("vm-1")
	_, err := b.desk.Report(t.Context(), key, lab.Report{Boot: o.Boot, Rung: lab.RungHash})
	b.must(err)
	b.has(b.ok("boot stop vm-1"), "boot 2", "asked to stop; it is working until")
	b.has(b.ok("boot stop 3"), "revoked")
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

// Whatever happens to a tag is said, and it is taken from nowhere but where it is.
func TestTagsSayWhereTheyWere(t *testing.T) {
	b := newBench(t)
	b.furnish()
	b.in = "a third"
	b.ok("image import - --name debian")
	b.has(b.ok("image tag debian@1 stable"), "debian@1\tstable\n")
	b.has(b.ok("image tag debian stable"), "debian@3\tstable\tstable moved from debian@1")
	b.ok("image tag debian@2 stable")
	if _, errs, code := b.run("image", "tag", "debian@3", "stable", "--remove"); code != 4 || !strings.Contains(errs, `tag "stable" is on debian@2, not on debian@3`) {
		t.Errorf("exit %d, %s", code, errs)
	}
	b.has(b.ok("image tag debian stable --remove"), "debian@2\tno tags\tstable taken away")
	b.ok("image tag debian@2 old")
	b.ok("image tag debian@2 slow")
	b.has(b.ok("image rm debian@2 --confirm debian@2"), "removed\tits tags went with it: old, slow")
	b.has(b.ok("image rm debian@3 --confirm debian@3"), "debian@3\tremoved\n")
}
