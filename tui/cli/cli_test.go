package cli

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"carte/lab"
	"carte/tui/action"
)

var update = flag.Bool("update", false, "write the golden files")

// Every command that the screen shows for an action is one that this command line takes.
func TestActionsHaveTwins(t *testing.T) {
	b := newBench(t)
	b.furnish()
	s, err := b.desk.Watch(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	vm, _ := s.Find("vm-1")
	boot, _ := s.LastBootOf(vm.ID)
	targets := []action.Target{
		{Snapshot: s}, {Snapshot: s, Machine: vm, Boot: boot, Text: "vm-2 disk=8G"}, {Snapshot: s, Machine: vm, Text: "note=it's mine"},
		{Snapshot: s, Boot: boot, Text: "vm-1"}, {Snapshot: s, Image: s.Images["debian"], Text: "/tmp/a file"},
		{Snapshot: s, Image: s.Images["debian"], Version: s.Versions["debian@1"]}, {Snapshot: s, Stack: s.Stacks["hpt"], Text: "vm-1"},
	}
	for _, a := range action.Table {
		for _, target := range targets {
			line := a.Command(target)
			if err := parses(b, line); err != nil {
				t.Errorf("%s: %s: %v", a.ID, line, err)
			}
		}
	}
}

// parses says whether a command line is one, without carrying it out.
func parses(b *bench, line string) error {
	words, err := splitLine(line)
	if err != nil || words[0] != "carte" {
		return fmt.Errorf("not a command line: %v", err)
	}
	c := &call{term: b.term}
	root := c.tree()
	root.InitDefaultHelpCmd()
	cmd, rest, err := root.Find(words[1:])
	if err != nil {
		return err
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	return cmd.ValidateArgs(cmd.Flags().Args())
}

func TestExitCodes(t *testing.T) {
	b := newBench(t)
	b.furnish()
	b.desk.findings = []lab.Finding{{What: "qemu", Must: true, Why: "not installed", Fix: "apt-get install qemu-system-x86"}}
	for _, c := range []struct {
		line string
		code int
		says string
	}{
		{"machine ls", 0, ""},
		{"machne ls", 2, "did you mean carte machine?"},
		{"machine sohw x", 2, "did you mean carte machine show?"},
		{"machine", 2, "There are add, adopt, arm"},
		{"machine show", 2, "MACHINE is missing: carte machine show MACHINE"},
		{"machine show a b", 2, `"b" is too much`},
		{"machine show a", 3, `machine "a": no such thing; there are vm-1`},
		{"machine ls --frob", 2, "unknown flag: --frob; carte machine ls --help"},
		{"machine add x", 2, "either --virtual, or has a network card"},
		{"machine add x --mac 1", 2, `"1" is not a network card's address`},
		{"machine add x --virtual --disk 4Q", 2, `size "4Q": "Q" is not a unit`},
		{"machine add x --virtual --disk 0", 2, "a size from 1"},
		{"machine add x --virtual --cpus 0", 2, "a number from 1"},
		{"machine add x --mac 00:11:22:33:44:55 --cpus 2", 2, "belong to a virtual machine"},
		{"machine add vm-1 --virtual", 5, "vm-1 is there already"},
		{"machine set vm-1 note", 2, `"note" is not SETTING=VALUE`},
		{"machine set vm-1 note=a note=b", 2, "note is set twice"},
		{"machine set vm-1 colour=red", 2, "there are name, power, warm"},
		{"machine arm vm-1", 2, "--disk SERIAL"},
		{"machine forget 52:54:00:00:00:99", 9, "--confirm 52:54:00:00:00:99"},
		{"machine power vm-1 on", 8, "carte serve starts one"},
		{"image import /nope/x --name x", 3, "/nope/x: there is no such file or folder here"},
		{"image import - ", 2, "standard input has no name"},
		{"image import - --name ''", 2, "the value is empty"},
		{"image import - --name x --size -5M", 2, "a size is not negative"},
		{"machine set vm-1 tail=10G", 4, "a tail of 10.7 GB (10737418240 bytes) needs 10.5 GB (10470031360 bytes) more than the disk of 268 MB (268435456 bytes) has"},
		{"image import - --name a@3", 2, "without a version"},
		{"image import - --name debian --form tree", 4, "has the form disk"},
		{"image show nix", 3, `image "nix": no such thing; there are debian, demo`},
		{"image rm debian", 5, "debian is needed by stack hpt; take it out there first: carte stack edit hpt"},
		{"image rm debian@2", 9, "--confirm debian@2"},
		{"image export debian", 2, "-o FILE"},
		{"image export debian --json -o -", 2, "cannot both go to standard output"},
		{"stack new x", 2, "--system IMAGE"},
		{"stack new x --system 'a b'", 2, "--system: "},
		{"stack rm x", 3, `stack "x": no such thing; there are demo, hpt`},
		{"boot hpt", 2, "--on MACHINE"},
		{"boot hpt --on vm-1 --timeout 5m", 2, "--timeout is for --wait"},
		{"boot hpt --on vm-1 --wait don", 2, `a boot never is "don"`},
		{"boot hpt --on vm-1 --wait done", 8, "no lab runs in "},
		{"capture debian", 2, "--machine NAME, --from FILE"},
		{"capture debian --machine vm-1 --from x", 2, "exclude one another"},
		{"capture debian --from x --wait", 2, "are for --machine"},
		{"capture debian --machine vm-1 --timeout 5m", 2, "--timeout is for --wait"},
		{"capture debian --machine vm-1 --wait=don", 2, `a boot never is "don"`},
		{"capture debian --machine vm-1 --wait", 8, "no lab runs in "},
		{"capture debian@1 --machine vm-1", 2, "its name has no version"},
		{"capture debian --machine vm-1 --base 99", 3, "debian@99"},
		{"capture debian --machine vm-1 --kind user", 4, "is of kind system"},
		{"capture debian --machine nobody", 3, "vm-1"},
		{"boot show 99", 3, "boot 99: no such thing"},
		{"boot show x", 3, `"x" is neither the number of a boot nor a machine`},
		{"boot stop 1", 5, "boot 1 is over (done)"},
		{"queue rm 1", 5, "it does not wait"},
		{"queue mv 3", 2, "--before BOOT, --first, --last, or --machine NAME"},
		{"queue mv 3 --first --last", 2, "one of --before"},
		{"log -f --jsonl", 8, "no lab runs"},
		{"wait machine vm-1 happy", 8, "no lab runs"},
		{"wait boot 1 happy", 2, "a boot never is"},
		{"doctor", 4, "1 thing is missing that carte needs"},
		{"serve --dhcp maybe", 2, "none of auto, server, proxy, off"},
		{"serve --dhcp server", 2, "--interface eth1"},
		{"serve --interface eth1 --pool 10.0.0.9", 2, "it is not FIRST-LAST"},
		{"serve --pool 10.0.0.1-10.0.0.9 ", 2, "below [lab]: interface"},
		{"serve --name a/b", 2, "letters, digits"},
		{"serve --name ''", 2, "the value is empty"},
		{"serve --boot-files /nope", 3, "/nope: no such thing"},
		{"log --lines 0", 2, "a number from 1"},
		{"log --lines -1", 2, "a number from 1"},
		{"help bogus", 2, "no command \"bogus\""},
		{"help machine bogus", 2, "no command \"bogus\""},
		{"completion bogus", 2, "no command \"bogus\""},
		{"image export debian -o /", 4, "/ is a folder"},
		{"image export debian -o /nope/x", 3, "the folder /nope: no such thing"},
		{"serve --listen foo", 2, "listen = \"foo\" is not ADDRESS:PORT"},
		{"image export", 2, "carte image export IMAGE -o FILE"},
		{"demo --firmware coreboot", 2, "neither bios nor uefi"},
		{"demo", 2, "carte demo --headless works without one"},
		{"", 2, "the screen needs a terminal"},
	} {
		args, err := splitLine(c.line)
		if err != nil {
			t.Fatal(err)
		}
		before, _ := b.desk.Watch(t.Context(), 0)
		_, errs, code := b.run(args...)
		if code != c.code || !strings.Contains(errs, c.says) {
			t.Errorf("carte %s: exit %d, want %d: %s want %q", c.line, code, c.code, errs, c.says)
		}
		after, _ := b.desk.Watch(t.Context(), 0)
		if code != 0 && before.Rev != after.Rev {
			t.Errorf("carte %s: exit %d, and the lab has changed", c.line, code)
		}
		if c.line == "demo" { // --json would carry it out
			continue
		}
		// The same as a document, for scripts.
		_, errs, code = b.run(append(args, "--json")...)
		var doc struct {
			Error struct{ Code, Message string }
		}
		if c.code != 0 && (code != c.code || json.Unmarshal([]byte(errs), &doc) != nil || !strings.HasPrefix(doc.Error.Code, "E-") || doc.Error.Message == "") {
			if !strings.Contains(c.line, "--json") || code != c.code {
				t.Errorf("carte %s --json: exit %d: %s", c.line, code, errs)
			}
		}
	}
}

// An error names the commands that help, as they can be typed.
func TestFixes(t *testing.T) {
	b := newBench(t)
	b.furnish()
	for line, want := range map[string][]string{
		"machine power vm-1 on":            {"carte serve"},
		"image rm debian@2":                {"carte image rm debian@2 --confirm debian@2"},
		"boot hpt --on 52:54:00:00:00:99":  {"carte machine adopt 52:54:00:00:00:99 --name NAME"},
		"machine ignore vm-1":              {"carte boot stop 2"},
		"stack new demo --system debian@2": {"carte stack rm demo"},
		"quue":                             {"carte queue"},
		"queue":                            {"carte queue --help"},
		"queue rm 1":                       nil,
		"image rm debian@2 --confirm b":    {"carte image rm debian@2 --confirm debian@2"},
		"machine show nobody":              nil,
	} {
		args, _ := splitLine(line)
		_, errs, _ := b.run(append(args, "--json")...)
		var doc struct{ Error struct{ Fix []string } }
		if err := json.Unmarshal([]byte(errs), &doc); err != nil {
			t.Fatalf("%s: %v: %s", line, err, errs)
		}
		i := slices.Index(doc.Error.Fix, "--state")
		if i >= 0 {
			t.Errorf("%s: %q", line, doc.Error.Fix)
		}
		for j, f := range doc.Error.Fix {
			doc.Error.Fix[j] = strings.ReplaceAll(strings.ReplaceAll(f, " --state "+b.dir, ""), " --json", "")
		}
		if !slices.Equal(doc.Error.Fix, want) {
			t.Errorf("%s: fix %q, want %q (%s)", line, doc.Error.Fix, want, errs)
		}
	}
}

// A name is asked for at a terminal, and only there.
func TestConfirm(t *testing.T) {
	b := newBench(t)
	b.furnish()
	b.term.Asks = true
	b.in = "debian@2\nmore"
	b.ok("image rm debian@2")
	b.in = "debian\n"
	if _, errs, code := b.run("machine", "forget", "52:54:00:00:00:99"); code != 9 || !strings.Contains(errs, "Type the name to go on") {
		t.Errorf("a wrong name: exit %d %s", code, errs)
	}
	b.in = "\n"
	if _, errs, code := b.run("machine", "forget", "52:54:00:00:00:99"); code != 9 || !strings.Contains(errs, "nothing was changed") {
		t.Errorf("no name: exit %d %s", code, errs)
	}
	b.in = "52:54:00:00:00:99\n"
	b.ok("machine forget 52:54:00:00:00:99")
}

func TestTablesForPeopleAndPrograms(t *testing.T) {
	b := newBench(t)
	b.furnish()
	if got := b.ok("stack ls"); got != "demo\t[demo]\t[demo@1]\t3.1 MB\nhpt\t[debian@1]\t[debian@1]\t1.0 MB\n" {
		t.Errorf("in a pipe:\n%s", got)
	}
	if got := b.ok("stack ls -q"); got != "demo\nhpt\n" {
		t.Errorf("names:\n%s", got)
	}
	b.term.Table = true
	if got, want := b.ok("stack ls"), "NAME  LAYERS      NOW         NEEDS\ndemo  [demo]      [demo@1]    3.1 MB\nhpt   [debian@1]  [debian@1]  1.0 MB\n"; got != want {
		t.Errorf("on a terminal:\n%s\nwant\n%s", got, want)
	}
	b.ok("machine set vm-1 note=rack-2")
	for _, line := range []string{"machine ls", "machine show vm-1", "boot show 1", "queue ls", "image ls", "image show debian", "status", "doctor", "version", "help", "help machine arm", "completion bash"} {
		if out := b.ok(line); strings.ContainsAny(out, "\x1b\r") || out == "" {
			t.Errorf("carte %s: %q", line, out)
		}
	}
}

// What a disk held before carte wrote to it is not said beside what it holds now; the tail is there as set and as it is.
func TestShowMachine(t *testing.T) {
	b := newBench(t)
	b.furnish()
	b.ok("machine add vm-2 --virtual --disk 4G")
	b.ok("machine set vm-2 tail=none")
	for line, want := range map[string][]string{
		"machine show vm-1": {"disk\t/dev/vda carte-", ") QEMU\n", "holds\tdemo@1 on carte-", "tail\tauto: none at the end of carte-"},
		"machine show vm-2": {"tail\tnone: none at the end of carte-"},
	} {
		out := b.ok(line)
		for _, w := range want {
			if !strings.Contains(out, w) || strings.Contains(out, "blank") {
				t.Errorf("carte %s has no %q, or a blank disk:\n%s", line, w, out)
			}
		}
	}
	b.ok("machine set vm-2 tail=1G")
	if out := b.ok("machine show vm-2"); !strings.Contains(out, "tail\t1 GiB: 1.1 GB at the end of carte-") {
		t.Errorf("a tail of 1 GiB:\n%s", out)
	}
}

// The shell is offered what fits, and nothing that is over.
func TestCompletion(t *testing.T) {
	b := newBench(t)
	b.furnish()
	for line, want := range map[string]string{
		"boot hpt --on ":         "vm-1",
		"boot hpt --wait ":       "done",
		"capture ":               "debian",
		"capture x --machine ":   "vm-1",
		"stack new x --system ":  "debian",
		"stack new x --layer ":   "demo",
		"stack new x --ask ":     "lazy=required",
		"stack new x --reset ":   "sampled",
		"stack diff hpt ":        "demo",
		"stack sync hpt ":        "vm-1",
		"image import x --kind ": "project",
		"stack check ":           "hpt",
		"wait boot 1 ":           "done",
		"wait machine vm-1 ":     "idle",
		"machine set vm-1 ":      "note=",
		"machine set vm-1 a=b ":  "note=",
		"machine power vm-1 ":    "cycle",
		"machine show ":          "vm-1",
		"boot ":                  "hpt",
		"boot show ":             "1",
		"queue rm ":              "3",
		"machine add x --firmw ": "",
	} {
		args := strings.Split("__complete "+line, " ")
		out, _, _ := b.runBefore(args...)
		if lines := strings.Split(out, "\n"); want != "" && !slices.Contains(lines, want) {
			t.Errorf("carte %s: %q", line, lines)
		}
	}
	if out, _, _ := b.runBefore("__complete", "queue", "rm", ""); strings.Contains(out, "1\n2") {
		t.Errorf("queue rm offers boots that are over: %q", out)
	}
}

// The documents are promises to scripts: this test shows when one changes.
func TestDocuments(t *testing.T) {
	b := newBench(t)
	b.furnish()
	b.in = "third bytes"
	for _, line := range []string{
		"machine ls", "machine show vm-1", "machine add nuc-1 --mac 00:11:22:33:44:55", "machine set nuc-1 note=x", "machine adopt 52:54:00:00:00:99 --name nuc-2",
		"machine forget nuc-2 --confirm nuc-2", "image ls", "image show demo", "image import - --name debian", "image verify", "image rm debian@3 --confirm debian@3",
		"stack ls", "stack show demo", "stack new tree --system demo", "stack edit tree --set cmdline=quiet", "stack check tree --machine vm-1", "stack diff tree demo", "stack rm tree", "kind ls", "image tag demo@1 stable", "image log demo", "boot hpt --on vm-1", "boot show 1", "queue ls", "queue mv 4 --first",
		"queue rm 4", "boot retry 1", "capture demo --machine vm-1 --message x", "stack sync hpt vm-1", "image rollback debian --to 1", "status", "doctor", "version",
	} {
		out := b.ok(line + " --json")
		dec := json.NewDecoder(strings.NewReader(out))
		var doc any
		if err := dec.Decode(&doc); err != nil {
			t.Fatalf("carte %s --json: %v\n%s", line, err, out)
		}
		if dec.More() {
			t.Errorf("carte %s --json wrote more than one document:\n%s", line, out)
		}
		words := strings.Fields(line)
		golden(t, strings.Join(words[:min(2, len(words))], "-")+".schema", schema(doc, ""))
	}
}

// schema is the shape of a document: its names and the types of their values, one a line.
func schema(doc any, at string) string {
	switch x := doc.(type) {
	case map[string]any:
		if len(x) == 0 {
			return at + " {}\n"
		}
		text := ""
		for _, k := range sortedKeys(x) {
			text += schema(x[k], at+"."+k)
		}
		return text
	case []any:
		if len(x) == 0 {
			return at + "[]\n"
		}
		lines := []string{}
		for _, e := range x {
			for _, l := range strings.SplitAfter(schema(e, at+"[]"), "\n") {
				if !slices.Contains(lines, l) {
					lines = append(lines, l)
				}
			}
		}
		slices.Sort(lines)
		return strings.Join(lines, "")
	case string:
		if _, err := time.Parse(time.RFC3339, x); err == nil {
			return at + " time\n"
		}
		return at + " string\n"
	case float64:
		return at + " number\n"
	case bool:
		return at + " bool\n"
	}
	return at + " null\n"
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil || got != string(want) {
		t.Errorf("%s is not what it was (go test ./tui/cli -update writes it anew): %v\n%s", file, err, got)
	}
}
