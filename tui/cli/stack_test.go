package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"carte/lab"
	"carte/lab/text"
)

func (d *testDesk) Judge(ctx context.Context, st lab.Stack) (lab.Judged, error) {
	s, err := d.Watch(ctx, 0)
	if err != nil {
		return lab.Judged{}, err
	}
	return s.Judge(st, nil), nil
}

func (d *testDesk) ExportStack(_ context.Context, name, as string, w io.Writer, _ func(done, of int64)) ([]string, error) {
	_, err := io.WriteString(w, as+" of "+name)
	return []string{"an initrd was made"}, err
}

func (d *testDesk) ImportStack(ctx context.Context, r io.Reader, as lab.TakeAs, _ func(int64)) (lab.Taken, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return lab.Taken{}, err
	}
	if string(b) != "bundle of hpt" {
		return lab.Taken{}, fmt.Errorf("this is no bundle: %w", lab.ErrInvalid)
	}
	got := lab.Taken{}
	name := "came"
	if as.Stack != "" {
		name = as.Stack
		got.Renamed = []lab.Renamed{{What: "stack", Was: "came", Is: name}}
	}
	for _, was := range sortedKeys(as.Images) {
		got.Renamed = append(got.Renamed, lab.Renamed{What: "image", Was: was, Is: as.Images[was]})
	}
	if is := as.Kinds["course"]; is != "" {
		got.Kinds = []lab.Kind{{Name: is, WrittenBack: "never"}}
	}
	got.Changed, err = d.Say(ctx, lab.PutStack{Stack: lab.Stack{Name: name, Layers: []lab.Ref{{Name: "debian"}}}})
	return got, err
}

// compose fills the lab with images of every form.
func (b *bench) compose() {
	b.t.Helper()
	b.furnish()
	for _, line := range []string{
		"image import - --name tree --form tree", "image import - --name hpt-2 --form kernel", "image import - --name mine --kind user --form files --place /home/me",
		"image import - --name rq --kind project --form files --offer autostart=required", "image import - --name junk --kind temporary --form files --for 8h",
	} {
		b.in = line
		b.ok(line)
	}
}

func (b *bench) stack(name string) lab.Stack {
	b.t.Helper()
	s, err := b.desk.Watch(b.t.Context(), 0)
	if err != nil {
		b.t.Fatal(err)
	}
	return s.Stacks[name]
}

func TestStackOfManyImages(t *testing.T) {
	b := newBench(t)
	b.compose()
	host := filepath.Join(b.dir, "hostname")
	if err := os.WriteFile(host, []byte("{machine}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	b.ok("image tag tree@1 stable")
	line := "stack new six --user mine --project rq --layer junk --system tree@stable --kernel hpt-2 --cmdline 'console=ttyS0 hugepages={pages}' --param pages=0 --start netboot --until run --ask autostart=required --file /etc/hostname=" + host
	b.ok(line)
	got := b.stack("six")
	got.Since = time.Time{}
	if want := (lab.Stack{
		Name: "six", Layers: []lab.Ref{{Name: "tree", Version: 1}, {Name: "mine"}, {Name: "rq"}, {Name: "junk"}, {Name: "hpt-2"}}, Cmdline: "console=ttyS0 hugepages={pages}",
		Params: map[string]string{"pages": "0"}, Start: lab.StartNetboot, Until: lab.RungRun, Asks: lab.Terms{lab.Autostart: lab.Required}, Files: []lab.TextFile{{Path: "/etc/hostname", Text: "{machine}\n"}},
	}); !reflect.DeepEqual(got, want) {
		t.Errorf("it is\n%+v, want\n%+v", got, want)
	}
	for _, c := range []struct{ line, says string }{
		{line, "six is there already"},
		{"stack new x --system tree --ask network=required", "clause network is required and cannot be given"},
		{"stack new x --system tree --ask lazi", `clause "lazi"`},
		{"stack new x --system tree --kernel mine", "--kernel mine: it is of kind user and form files"},
		{"stack new x --system tree --project mine", "--project mine: it is of kind user"},
		{"stack new x --user mine", "it has no system"},
		{"stack new x --system tree@newest", "a version is a number from 1, as in tree@3, or a tag, and tree has the tags stable"},
		{"stack edit six --set layers=tree@newest", "or a tag, and tree has the tags stable"},
		{"stack new x --system tree --param pages", "not NAME=VALUE"},
		{"stack new x --system tree --file /etc/x", "not PATH=FILE"},
		{"stack new x --system tree -f y", "-f takes the whole stack"},
		{"stack edit six --set colour=red", "params.NAME and asks.CLAUSE"},
		{"stack edit six --set grow=maybe", "neither true nor false"},
		{"boot six --on vm-1 --set page=1", `it has no parameter "page"`},
		{"image import - --name z --kind temporary --form files", "--until DATE, or --for 8h"},
		{"image import - --name z --kind temporary --form files --for 0h", "as in 8h, 90m or 3d"},
		{"image import - --name z --until tomorrow", "a date such as 2026-11-30"},
		{"image import - --name z --offer lazy=maybe", "it is optional or required"},
		{"image rollback tree --to 1", "is as tree@1 already"},
		{"stack show six --diagram png", "text, mermaid or svg"},
		{"stack export six --as tar -o x", "as bundle or as disk"},
		{"stack sync six", "either their names or --all"},
		{"boot out 1", "boot 1 left nothing in /carte/out"},
	} {
		args, err := splitLine(c.line)
		if err != nil {
			t.Fatal(err)
		}
		if _, errs, code := b.run(args...); code == 0 || !strings.Contains(errs, c.says) {
			t.Errorf("carte %s: exit %d, %s want %q", c.line, code, errs, c.says)
		}
	}
	b.ok("boot six --on vm-1 --set pages=512")
	if out := b.ok("boot show vm-1 --json"); !strings.Contains(out, `"agreed":`) {
		t.Errorf("boot show: %s", out)
	}
}

func TestStackText(t *testing.T) {
	b := newBench(t)
	b.compose()
	b.ok("stack new six --user mine --project rq --layer junk --system tree --kernel hpt-2 --cmdline 'hugepages={pages}' --param pages=0 --upper disk --reset sampled --ask lazy --keep tree --note 'huge pages'")
	want := lab.Stack{
		Name: "six", Layers: []lab.Ref{{Name: "tree"}, {Name: "mine"}, {Name: "rq"}, {Name: "junk"}, {Name: "hpt-2"}}, Cmdline: "hugepages={pages}",
		Params: map[string]string{"pages": "0"}, Upper: lab.UpperDisk, Reset: lab.ResetSampled, Asks: lab.Terms{lab.Lazy: lab.Optional}, Keep: []string{"tree"}, Note: "huge pages",
	}
	same := func(name string) {
		t.Helper()
		got := b.stack(name)
		got.Since, got.Name = time.Time{}, "six"
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s is\n%+v, want\n%+v", name, got, want)
		}
	}
	same("six")
	toml := b.ok("stack show six --toml")
	b.in = toml
	b.ok("stack new copy -f -")
	same("copy")
	if out := b.ok("stack diff six copy"); out != "" {
		t.Errorf("a copy differs: %s", out)
	}
	file := filepath.Join(b.dir, "six.toml")
	if err := os.WriteFile(file, []byte(strings.Replace(toml, "hugepages=", "quiet hugepages=", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	b.ok("stack edit copy -f " + file)
	b.ok("stack edit copy --set layers=tree,hpt-2,mine,rq --set params.pages=512 --set asks.lazy= --set keep= --set reset=trust")
	if got, want := b.ok("stack diff six copy"), strings.Join([]string{
		"image junk\tfloats, just now junk@1\t—", "order of images\t[tree mine rq junk hpt-2]\t[tree hpt-2 mine rq]", "cmdline\thugepages={pages}\tquiet hugepages={pages}", "reset\tsampled\ttrust",
		"keep\ttree\t—", "parameter pages\t0\t512", "clause lazy\toptional\t—", "",
	}, "\n"); got != want {
		t.Errorf("diff:\n%s\nwant\n%s", got, want)
	}
	out := b.ok("stack show six")
	for _, w := range []string{"mine, just now mine@1 (user) at /home/me, its changes are written back", "hpt-2@1 (system, kernel)", "starts\tkexec, or what the machine can", "fingerprint\tcarte:", "parameter\tpages = 0", "lazy\tnot given: no image offers it", "autostart\tgiven by rq@1 (required)", "changes\tgo to disk"} {
		if !strings.Contains(out, w) {
			t.Errorf("stack show has no %q:\n%s", w, out)
		}
	}
	for _, as := range []string{"text", "mermaid", "svg"} {
		if out := b.ok("stack show six --diagram " + as); !strings.Contains(out, "tree@1") {
			t.Errorf("as %s: %s", as, out)
		}
	}
}

// editor is an editor that does what a script says.
func (b *bench) editor(script string) {
	b.t.Helper()
	file := filepath.Join(b.dir, "editor")
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		b.t.Fatal(err)
	}
	b.term.Env = func(name string) string {
		return map[string]string{"EDITOR": file}[name]
	}
}

// typed is what a person types: a file, which an editor that does not read leaves as it is.
func (b *bench) typed(text string) {
	b.t.Helper()
	name := filepath.Join(b.dir, "typed")
	err := os.WriteFile(name, []byte(text), 0o600)
	if err == nil {
		b.keys, err = os.Open(name)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { b.keys.Close() })
}

// Without a terminal no editor is started that needs one, and nothing is left behind where nothing was typed.
func TestEditWithoutATerminal(t *testing.T) {
	b := newBench(t)
	b.compose()
	b.ok("stack new six --system tree")
	t.Setenv("TMPDIR", t.TempDir())
	for editor, says := range map[string]string{"": "there is no terminal", "vim -n": "there is no terminal", "/nonexist": "the editor (/nonexist)"} {
		b.term.Env = func(name string) string { return map[string]string{"EDITOR": editor}[name] }
		if _, errs, code := b.run("stack", "edit", "six"); code == 0 || !strings.Contains(errs, says) {
			t.Errorf("%q: exit %d: %s", editor, code, errs)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "carte-six-*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	b.editor("echo broken >> $1; exit 1")
	_, errs, _ := b.run("stack", "edit", "six")
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "carte-six-*")); len(left) != 1 || !strings.Contains(errs, left[0]) {
		t.Errorf("left %v, said %s", left, errs)
	}
}

func TestStackEditor(t *testing.T) {
	b := newBench(t)
	b.compose()
	b.ok("stack new six --system tree --cmdline quiet")
	b.editor(`sed -i 's/quiet/loud/' "$1"`)
	b.ok("stack edit six")
	if got := b.stack("six").Cmdline; got != "loud" {
		t.Errorf("edited, its command line is %q", got)
	}
	b.editor("exit 0")
	before, _ := b.desk.Watch(t.Context(), 0)
	if _, errs, code := b.run("stack", "edit", "six"); code != 0 || !strings.Contains(errs, "nothing was changed") {
		t.Errorf("nothing was edited: exit %d %s", code, errs)
	}
	// A text that is broken comes back at its line, and what is written at last counts.
	b.editor(`echo "$@" >> ` + filepath.Join(b.dir, "calls") + "\n" + `if grep -q broken "$1"; then sed -i 's/^broken.*/cmdline = "mended"/' "$1"; else sed -i 's/^cmdline.*/broken/' "$1"; fi`)
	b.term.Asks = true
	b.typed("\n")
	_, errs, code := b.run("stack", "edit", "six")
	if code != 0 || !strings.Contains(errs, "line ") || b.stack("six").Cmdline != "mended" {
		t.Errorf("broken, then mended: exit %d, %q, %s", code, b.stack("six").Cmdline, errs)
	}
	// What only the lab can refuse is on its line, too.
	b.editor(`sed -i 's/^layers.*/layers = ["tree",\n "absent"]/' "$1"`)
	b.typed("q\n")
	if _, errs, code := b.run("stack", "edit", "six"); code != 3 || !regexp.MustCompile(`line \d+: .*image "absent"`).MatchString(errs) {
		t.Errorf("an image that is not there: exit %d %s", code, errs)
	}
	text := filepath.Join(b.dir, "x.toml")
	if err := os.WriteFile(text, []byte("name = \"x\"\nlayers = [\"tree\"]\n\nstart = \"kexe\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, errs, code := b.run("stack", "new", "x", "-f", text); code != 2 || !strings.Contains(errs, "line 4: ") {
		t.Errorf("a start that is none: exit %d %s", code, errs)
	}
	b.editor(`sed -i 's/^cmdline.*/broken/' "$1"`)
	b.typed("q\n")
	_, errs, code = b.run("stack", "edit", "six")
	at := strings.LastIndex(errs, "the text is in ")
	if code != 2 || at < 0 || b.stack("six").Cmdline != "mended" {
		t.Fatalf("broken and left: exit %d %s", code, errs)
	}
	kept := strings.TrimSpace(errs[at+len("the text is in "):])
	if text, err := os.ReadFile(kept); err != nil || !strings.Contains(string(text), "broken") {
		t.Errorf("the text in %s: %v %s", kept, err, text)
	}
	os.Remove(kept)
	b.term.Asks = false
	b.editor("exit 3")
	if _, errs, code := b.run("stack", "edit", "six"); code == 0 || !strings.Contains(errs, "exit status 3") {
		t.Errorf("an editor that fails: exit %d %s", code, errs)
	}
	if after, _ := b.desk.Watch(t.Context(), 0); after.Rev != before.Rev+1 {
		t.Errorf("the lab changed %d times, want once", after.Rev-before.Rev)
	}
}

func TestEditDoesNotHideAnother(t *testing.T) {
	b := newBench(t)
	b.compose()
	b.ok("stack new six --system tree --cmdline quiet")
	was := b.stack("six")
	b.ok("stack edit six --set cmdline=theirs")
	c := &call{term: b.term}
	err := c.takeText(t.Context(), desk{b.desk, false, nil}, was, text.Stack(was))
	if err == nil || !strings.Contains(err.Error(), "changed by somebody else") || b.stack("six").Cmdline != "theirs" {
		t.Errorf("%v; it is %q", err, b.stack("six").Cmdline)
	}
}

func TestStackCheck(t *testing.T) {
	b := newBench(t)
	b.compose()
	b.ok("machine add small --virtual --disk 256M")
	b.ok("stack new six --system tree --kernel hpt-2 --cmdline root=/dev/sda1")
	out, _, _ := b.run("stack", "check", "six", "--json")
	var j lab.Judged
	if err := json.Unmarshal([]byte(out), &j); err != nil || j.Fingerprint == "" || len(j.Machines) != 2 {
		t.Fatalf("%v: %s", err, out)
	}
	if out, _, _ := b.run("stack", "check", "six", "--machine", "small", "--json"); strings.Contains(out, `"machine":"vm-1"`) || !strings.Contains(out, `"machine":"small"`) {
		t.Errorf("of one machine: %s", out)
	}
	b.in = "name = \"x\"\nlayers = [\"nix\"]\n"
	if out, errs, code := b.run("stack", "check", "-f", "-"); code != 4 || !strings.Contains(out, "STOP") || !strings.Contains(errs, "stack x cannot be booted") {
		t.Errorf("of what is not there: exit %d %s%s", code, out, errs)
	}
	for _, r := range j.Remarks {
		if r.Edited == nil {
			continue
		}
		b.ok("stack fix six " + r.Code)
		if reflect.DeepEqual(b.stack("six").Cmdline, "root=/dev/sda1") {
			t.Errorf("%s changed nothing: %+v", r.Code, r)
		}
		return
	}
	t.Errorf("no remark can be mended: %+v", j.Remarks)
}

// A kernel is packed of its parts; what goes on from now on is a date.
func TestImportKernelAndDates(t *testing.T) {
	b := newBench(t)
	kernel := filepath.Join(b.dir, "vmlinuz")
	if err := os.WriteFile(kernel, []byte("a kernel"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.ok("image import hpt-2 --kernel " + kernel)
	s, _ := b.desk.Watch(t.Context(), 0)
	if im := s.Images["hpt-2"]; im.Form != lab.FormKernel || im.Kind != "system" {
		t.Errorf("it is %+v", im)
	}
	for line, says := range map[string]string{
		"image import x --kernel /nope":                             "/nope: no such thing",
		"image import x --initrd " + kernel:                         "are beside --kernel",
		"image import x --kernel " + kernel + " --name y":           "--name says another",
		"image import x --form tree --kernel " + kernel:             "of the form kernel, not tree",
		"image import x --kernel " + kernel + " --modules " + b.dir: "there are no modules in it",
	} {
		args, _ := splitLine(line)
		if _, errs, code := b.run(args...); code == 0 || !strings.Contains(errs, says) {
			t.Errorf("carte %s: exit %d %s want %q", line, code, errs, says)
		}
	}
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		until, lasts string
		want         time.Time
	}{
		{"", "", time.Time{}},
		{"2026-11-30", "", time.Date(2026, 11, 30, 23, 59, 59, 0, time.UTC)},
		{"2026-11-30 18:00", "", time.Date(2026, 11, 30, 18, 0, 0, 0, time.UTC)},
		{"2026-11-30T18:00:00+01:00", "", time.Date(2026, 11, 30, 17, 0, 0, 0, time.UTC)},
		{"", "90m", now.Add(90 * time.Minute)},
		{"", "3d", now.Add(72 * time.Hour)},
	} {
		if got, err := deathOf(c.until, c.lasts, now); err != nil || !got.Equal(c.want) {
			t.Errorf("until %q, for %q: %v, %v", c.until, c.lasts, got, err)
		}
	}
	for _, lasts := range []string{"-1h", "0d", "1e9h", "d", "1w"} {
		if got, err := deathOf("", lasts, now); err == nil {
			t.Errorf("for %q: %v", lasts, got)
		}
	}
}

func TestStackFiles(t *testing.T) {
	b := newBench(t)
	b.furnish()
	file := filepath.Join(b.dir, "hpt.carte")
	b.ok("stack export hpt --as bundle -o " + file)
	if text, err := os.ReadFile(file); err != nil || string(text) != "bundle of hpt" {
		t.Errorf("%v %q", err, text)
	}
	if out := b.ok("stack import " + file); !strings.Contains(out, "came\tstack of [debian]") {
		t.Errorf("import: %s", out)
	}
	out := b.ok("stack import " + file + " --as mine --rename debian=deb --rename k=l --prefix x- --kind course=ours")
	for _, want := range []string{"ours\tkind, new here", "mine\tstack of [debian], came in the bundle"} {
		if !strings.Contains(out, want) {
			t.Errorf("import under other names: %s, want %q", out, want)
		}
	}
	var doc struct {
		Renamed []lab.Renamed `json:"renamed"`
		Kinds   []kindDoc     `json:"kinds"`
	}
	out = b.ok("stack import " + file + " --as yours --rename debian=deb --kind course=ours --json")
	if err := json.Unmarshal([]byte(out), &doc); err != nil || len(doc.Renamed) != 2 || doc.Renamed[1] != (lab.Renamed{What: "image", Was: "debian", Is: "deb"}) || len(doc.Kinds) != 1 {
		t.Errorf("as JSON: %+v", doc)
	}
	for _, bad := range []string{"--rename debian", "--kind =x", "--rename a="} {
		if _, errs, code := b.run(strings.Fields("stack import " + file + " " + bad)...); code != 2 || !strings.Contains(errs, "NAME=NEW") {
			t.Errorf("%s: exit %d %s", bad, code, errs)
		}
	}
	if out, errs, code := b.run("stack", "export", "hpt", "--as", "disk", "-o", "-"); out != "disk of hpt" || !strings.Contains(errs, "an initrd was made") || code != 0 {
		t.Errorf("to a pipe: exit %d %q, %s", code, out, errs)
	}
	if out, errs, _ := b.run("stack", "export", "hpt", "--as", "disk", "-o", file, "--force", "--json"); !strings.Contains(out, "an initrd was made") || errs != "" {
		t.Errorf("as JSON: %q, %s", out, errs)
	}
	b.in = "a cat"
	if _, errs, code := b.run("stack", "import", "-"); code != 2 || !strings.Contains(errs, "no stack was made") {
		t.Errorf("a cat: exit %d %s", code, errs)
	}
}

func TestStackSync(t *testing.T) {
	b := newBench(t)
	b.in = "bytes"
	b.ok("machine add vm-1 --virtual --disk 256M")
	b.ok("machine add nuc-1 --mac 00:11:22:33:44:55")
	b.ok("image import - --name demo --form tree")
	b.ok("stack new demo --system demo")
	out, errs, code := b.run("stack", "sync", "demo", "--all")
	if code != 4 || !strings.Contains(out, "vm-1\tboot 1 lays it\tdemo@1 lacking") || !strings.Contains(out, "nuc-1\t") || !strings.Contains(errs, "not proven on nuc-1") {
		t.Errorf("sync: exit %d %s%s", code, out, errs)
	}
	if s, _ := b.desk.Watch(t.Context(), 0); s.Boots[1].Plan.Start != lab.StartLay {
		t.Errorf("boot 1: %+v", s.Boots[1].Plan)
	}
	if out := b.ok("stack sync demo vm-1"); !strings.Contains(out, "boot 1 lays it") { // and no second one
		t.Errorf("again: %s", out)
	}
	b.serve()
	out, errs, code = b.run("stack", "sync", "demo", "vm-1", "--wait", "--timeout", "50ms")
	if code != 6 || !strings.Contains(out, "vm-1\tboot 1 is ") || !strings.Contains(errs, "1 boot is not over after 50ms; what was queued goes on") {
		t.Errorf("a wait that ends: exit %d %s%s", code, out, errs)
	}
	wait := b.when("boot", ordered, func() { b.lay("vm-1") })
	out = b.ok("stack sync demo vm-1 --wait --timeout 1m")
	wait()
	if !strings.Contains(out, "vm-1\tproven\tdemo@1 ") {
		t.Errorf("after it was laid: %s", out)
	}
	if out := b.ok("stack sync demo vm-1 --json"); !strings.Contains(out, `"proven":true`) || strings.Contains(out, `"boot"`) {
		t.Errorf("of what is there: %s", out)
	}
}
