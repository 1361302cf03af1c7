package cli

import (
	"errors"
	"fmt"
	"os"
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

// A fix says what it did.
func TestFixSaysWhatItDid(t *testing.T) {
	b := newBench(t)
	b.compose()
	b.ok("stack new odd --system tree --user mine --keep mine")
	s, err := b.desk.Watch(t.Context(), 0)
	b.must(err)
	was := s.Stacks["odd"]
	is := was
	is.Layers, is.Keep, is.Cmdline = was.Layers[:1], nil, "quiet"
	if got := changeWords(differences(s, was, is)); got != "image mine taken out (was floats, just now mine@1); cmdline is now quiet; keep taken out (was mine)" {
		t.Error(got)
	}
	if _, errs, _ := b.run("stack", "fix", "odd", "E-X"); !strings.Contains(errs, "by itself is I-FLOATS\n") {
		t.Error(errs)
	}
	b.has(b.ok("stack fix odd I-FLOATS"), "odd\t[tree@1 mine@1]\timage tree is now tree@1 (was floats, just now tree@1); image mine")
	b.has(b.ok("stack edit odd --set layers=tree,mine"), "odd")
	b.has(b.ok("stack fix odd I-FLOATS --json"), `"changed":[{"what":"image tree","a":"floats, just now tree@1","b":"tree@1"}`)
}

// An error about a file names it.
func TestErrorsNameTheFile(t *testing.T) {
	b := newBench(t)
	damaged := ofBundle("x.carte", fmt.Errorf("import a stack: chunks/1: %w", lab.ErrDamaged))
	if got := words(&kept{damaged, "no stack was made"}); got != "x.carte: import a stack: chunks/1; copy it again; no stack was made" || !errors.Is(damaged, lab.ErrDamaged) {
		t.Error(got)
	}
	if got := words(ofBundle("-", fmt.Errorf("this is no bundle: %w", lab.ErrInvalid))); got != "standard input: this is no bundle" {
		t.Error(got)
	}
	file := t.TempDir() + "/x.carte"
	b.must(os.WriteFile(file, []byte("text"), 0o600))
	for line, want := range map[string]string{
		"stack import " + file:                      file + ": this is no bundle",
		"stack import " + t.TempDir():               "is a folder, and a bundle is one file",
		"image import nosuch":                       "nosuch: there is no such file or folder here",
		"stack import nosuch":                       "nosuch: there is no such file or folder here",
		"stack new x --system y --file /etc/x=nope": "--file /etc/x: nope: there is no such file here",
	} {
		if _, errs, code := b.run(strings.Fields(line)...); code == 0 || !strings.Contains(errs, want) {
			t.Errorf("carte %s: exit %d, %s", line, code, errs)
		}
	}
}

// What is wrong with an image's life is said of what was typed.
func TestLifetimesAreSaid(t *testing.T) {
	b := newBench(t)
	b.in = "bytes"
	for line, want := range map[string]string{
		"image import - --name s --form files --kind temporary --until 2020-01-01": "--until 2020-01-01 is in the past",
		"image import - --name s --form files --kind machine":                      "lives with a machine, and none was given: --machine NAME",
		"image import - --name a/b":                                                "is not one of a-z A-Z 0-9 . _ -\n",
	} {
		if _, errs, code := b.run(strings.Fields(line)...); code == 0 || !strings.Contains(errs, want) || strings.Contains(errs, "no such thing") {
			t.Errorf("carte %s: exit %d, %s", line, code, errs)
		}
	}
}

// All that needs an image is named, or counted.
func TestRemovalNamesWhatNeedsIt(t *testing.T) {
	b := newBench(t)
	b.furnish()
	refused := func(ref, want string) {
		t.Helper()
		if _, errs, code := b.run("image", "rm", ref, "--confirm", ref); code != 5 || !strings.Contains(errs, want) {
			t.Errorf("carte image rm %s: exit %d, %s", ref, code, errs)
		}
	}
	refused("debian@1", "debian@1 is needed by stack hpt; take it out there first: carte stack edit hpt, or carte stack rm hpt")
	for _, name := range []string{"a", "b", "c"} {
		b.ok("stack new " + name + " --system debian")
	}
	refused("debian", "debian is needed by stacks a, b, c, hpt; take")
	b.ok("stack new d --system debian@1")
	refused("debian", "debian is needed by stacks a, b, c and 2 more; take")
	refused("debian@1", "debian@1 is needed by stacks d, hpt; take")
	for _, name := range []string{"a", "b", "c", "d", "hpt"} {
		b.ok("stack rm " + name)
	}
	refused("debian", "debian is needed by boot 2; wait for its end, or carte boot stop 2")
	b.ok("image rm debian@2 --confirm debian@2")
}

// A file cannot be two things at once.
func TestFileTwice(t *testing.T) {
	b := newBench(t)
	b.furnish()
	file := b.dir + "/f"
	b.must(os.WriteFile(file, []byte("x"), 0o600))
	if _, errs, code := b.run("stack", "new", "s9", "--system", "demo", "--file", "/etc/x="+file, "--file", "/etc/x="+file); code != 2 || !strings.Contains(errs, "file /etc/x is in it twice") {
		t.Errorf("exit %d, %s", code, errs)
	}
}
