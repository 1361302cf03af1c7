package lab

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"carte/lab/chunk"
)

// image adds a version whose bytes follow from its name and number.
func (b *bench) image(name, kind string, form Form, change ...func(*AddVersion)) Ref {
	b.t.Helper()
	v := AddVersion{Version: Version{Image: name, Root: chunk.Sum([]byte(name)), Bytes: 64 << 20, Content: 10 << 20}, Kind: kind, Form: form}
	for _, c := range change {
		c(&v)
	}
	return b.must(v).Versions[0].Ref()
}

func inside(in Inside) func(*AddVersion) { return func(v *AddVersion) { v.Inside = in } }

func offers(t Terms) func(*AddVersion) { return func(v *AddVersion) { v.Offers = t } }

func named(names ...string) (all []Ref) {
	for _, n := range names {
		ref, err := ParseRef(n)
		if err != nil {
			panic(err)
		}
		all = append(all, ref)
	}
	return all
}

// furnished is a bench with images of all forms and kinds.
func furnished(t *testing.T) *bench {
	b := newBench(t)
	b.image("root", "system", FormTree, inside(Inside{Arch: "amd64", Init: "/sbin/init", UUIDs: []string{"u-root"}}))
	b.image("bare", "system", FormTree, inside(Inside{Arch: "amd64", UUIDs: []string{"u-bare"}}))
	b.image("hpt", "system", FormKernel, inside(Inside{Arch: "amd64", Starts: "linux", Kernels: []string{"6.1"}}))
	b.image("stock", "system", FormKernel, inside(Inside{Arch: "amd64", Starts: "linux"}))
	b.image("armroot", "system", FormTree, inside(Inside{Arch: "arm64", Init: "/init"}))
	b.image("efi", "system", FormDisk, inside(Inside{Firmware: []Firmware{UEFI}}))
	b.image("mute", "system", FormDisk, inside(Inside{Init: "/sbin/init"}))
	b.image("words", "system", FormDisk, inside(Inside{Idle: "no partition table, no boot loader"}))
	b.image("memtest", "system", FormKernel, inside(Inside{Starts: "multiboot"}))
	b.image("me", "user", FormFiles, inside(Inside{UUIDs: []string{"u-me"}}))
	b.image("twin", "user", FormFiles, inside(Inside{UUIDs: []string{"u-me"}}))
	b.image("work", "project", FormFiles, inside(Inside{Run: true}))
	b.image("tmp", "temporary", FormFiles, func(v *AddVersion) { v.Dies = b.clock.Add(time.Hour) })
	b.image("tools", "system", FormFiles)
	b.image("tools", "system", FormFiles, func(v *AddVersion) { v.Root = chunk.Sum([]byte("tools 2")) })
	b.image("huge", "system", FormTree, func(v *AddVersion) { v.Bytes = 1 << 40 })
	b.image("strict", "system", FormFiles, offers(Terms{Lazy: Required}))
	b.image("notes", "machine", FormFiles, func(v *AddVersion) { v.Owner = "metal" })
	return b
}

// listing gives the files of layers, by the names of their images.
func listing(of map[string][]string) func(PlanLayer) ([]string, error) {
	return func(l PlanLayer) ([]string, error) {
		if list, ok := of[l.Ref.Name]; ok {
			return list, nil
		}
		return nil, errors.New("nobody knows")
	}
}

// Everything that can be said of a stack is said by one row, and where it comes with the mended stack, that has it no more.
func TestJudge(t *testing.T) {
	rows := []struct {
		code, words string
		on          string // the machine that it is said on; empty: of the stack itself
		stack       Stack
	}{
		{"E-STACK", "it has no images", "", Stack{}},
		{"E-IMAGE", `image "nope"`, "", Stack{Layers: named("root", "nope")}},
		{"E-VERSION", "version root@9", "", Stack{Layers: named("root@9", "me")}},
		{"E-ROOTS", "it has 2 systems", "", Stack{Layers: named("root", "bare")}},
		{"E-KERNELS", "it has 2 kernels", "", Stack{Layers: named("root", "hpt", "stock")}},
		{"E-ORDER", "the system comes first", "", Stack{Layers: named("me", "root")}},
		{"E-SYSTEM", "it has no system", "", Stack{Layers: named("me")}},
		{"E-SYSTEM", "nothing can be laid over one", "", Stack{Layers: named("efi", "me")}},
		{"E-CLAUSE", "clause network is required and cannot be given: no image offers it", "", Stack{Layers: named("root"), Asks: Terms{Network: Required}}},
		{"E-START", "cannot start by disk", "", Stack{Layers: named("root"), Start: StartDisk}},
		{"E-PARAM", "{pages} is no parameter", "", Stack{Layers: named("root", "hpt"), Cmdline: "hugepages={pages}"}},
		{"E-SETTING", "only a disk has a last partition", "", Stack{Layers: named("root"), Grow: true}},
		{"E-ARCH", "armroot@1 is for arm64 and hpt@1 for amd64", "", Stack{Layers: named("armroot", "hpt")}},
		{"I-SYSTEM", "one root, root@1, and one kernel, hpt@1", "", Stack{Layers: named("root", "hpt")}},
		{"I-SYSTEM", "under carte's own kernel", "", Stack{Layers: named("root")}},
		{"I-SYSTEM", "runs in memory", "", Stack{Layers: named("memtest")}},
		{"E-INIT", "no init was found in bare@1", "", Stack{Layers: named("bare")}},
		{"W-SYSTEM", "nothing will start from it: it has no partition table, no boot loader", "", Stack{Layers: named("words")}},
		{"I-ENDS", "stays on the rung run until its system says ::carte done, or somebody stops it", "", Stack{Layers: named("root")}},
		{"W-INIT", "no init was found in bare@1", "", Stack{Layers: named("bare", "me")}},
		{"W-INIT", "no init was found in bare@1", "", Stack{Layers: named("bare"), Cmdline: "init=/tool"}},
		{"W-CONSOLE", "no console=ttyS0", "", Stack{Layers: named("stock"), Cmdline: "quiet"}},
		{"W-SERIAL", "nothing in mute@1 opens a serial console", "", Stack{Layers: named("mute")}},
		{"W-ROOT", "root=/dev/sda1", "", Stack{Layers: named("root", "hpt"), Cmdline: "console=ttyS0 root=/dev/sda1 ro"}},
		{"W-ROOT", "in the order in which they are found", "", Stack{Layers: named("stock"), Cmdline: "console=ttyS0 root=/dev/nvme0n1p2"}},
		{"I-FLOATS", "tools takes the newest version, now tools@2", "", Stack{Layers: named("root", "tools")}},
		{"I-NEWER", "tools@1 stays at that version; the newest is tools@2", "", Stack{Layers: named("root", "tools@1")}},
		{"W-DIES", "tmp@1 dies at 2026-03-01T13:00:00Z", "", Stack{Layers: named("root", "tmp")}},
		{"W-OWNER", "notes@1 is metal's own", "", Stack{Layers: named("root", "notes")}},
		{"W-BACK", "me@1 lies over the root", "", Stack{Layers: named("root", "me")}},
		{"W-UUID", "me@1 and twin@1 both have a file system with the id u-me", "", Stack{Layers: named("root", "me", "twin")}},
		{"I-CLAUSE", "autostart: given by work@1", "", Stack{Layers: named("root", "work")}},
		{"W-CLAUSE", "lazy: asked for and not given: no image offers it", "", Stack{Layers: named("root"), Asks: Terms{Lazy: Optional}}},
		{"W-PATHS", "2 files are in root@1 and in me@1, and me@1 wins: /etc/motd, /etc/passwd", "", Stack{Layers: named("root", "me")}},
		{"W-HIDES", "work@1 is mounted at /carte/project, and hides what lies there: /carte/project/old", "", Stack{Layers: named("root", "work")}},
		{"I-PATHS", "the files of tools@2 were not listed", "", Stack{Layers: named("root", "tools")}},

		{"E-NOWHERE", "no machine can run this stack: no init was found in bare@1", "vm", Stack{Layers: named("bare")}},
		{"E-JOINS", `notes is metal's; it joins the stacks of that machine, and is given to no other (clause "joins by itself" of kind machine)`, "vm", Stack{Layers: named("root", "notes")}},
		{"I-JOINS", "notes@1 joins by itself", "metal", Stack{Layers: named("root")}},
		{"I-JOINS", "notes stays out", "metal", Stack{Layers: named("memtest")}},
		{"E-ARCH", "armroot@1 is for arm64, and vm is amd64", "vm", Stack{Layers: named("armroot")}},
		{"E-FIRMWARE", "efi@1 starts by uefi, and vm has bios", "vm", Stack{Layers: named("efi")}},
		{"E-ROOM", "too small", "metal", Stack{Layers: named("huge")}},
		{"E-ROOM", "disk S1", "metal", Stack{Layers: named("wide"), Upper: UpperDisk}},
		{"E-DISK", "no disk of empty may be written", "empty", Stack{Layers: named("root")}},
		{"I-DISK", "disk S1 (8.6 GB) is armed", "metal", Stack{Layers: named("root")}},
		{"I-SCRATCH", "its changes have", "metal", Stack{Layers: named("root"), Upper: UpperDisk}},
		{"E-SHARED", `image me has one machine at a time`, "metal", Stack{Layers: named("root", "me")}},
		{"W-PARKED", "vm is parked", "vm", Stack{Layers: named("root")}},
		{"W-KEXEC", "could not replace its kernel before: it hung", "metal", Stack{Layers: named("root", "hpt"), Start: StartKexec}},
		{"I-KEXEC", "the server loads its kernel", "metal", Stack{Layers: named("root", "hpt")}},
		{"I-KEXEC", "has not been seen to do it yet", "vm", Stack{Layers: named("root", "hpt")}},
		{"W-MEMORY", "are loaded into it", "vm", Stack{Layers: named("fat")}},
		{"I-MOVES", "at most 21.0 MB to move; how long it takes is not known yet", "metal", Stack{Layers: named("root")}},
		{"I-MOVES", "are loaded at every boot", "metal", Stack{Layers: named("memtest")}},
	}
	b := furnished(t)
	b.image("fat", "system", FormKernel, func(v *AddVersion) { v.Content = 8 << 30 })
	b.image("wide", "system", FormTree, func(v *AddVersion) { v.Bytes = 8*GiB - 300<<20 })
	b.must(AddMachine{Name: "empty", MACs: []string{"52:54:00:00:00:09"}})
	b.must(PutStack{Stack: Stack{Name: "mine", Layers: named("root", "me")}})
	b.queue("vm", "mine")
	m := b.machine("vm")
	m.Parked = "it fell over"
	b.change(m)
	m = b.machine("metal")
	m.Kexec.Failed, m.Tail = "it hung", -1
	b.change(m)
	seen := map[string]bool{}
	for _, r := range rows {
		r.stack.Name = "s"
		paths := listing(map[string][]string{
			"root": {"/carte.toml", "/carte/project/old", "/etc/motd", "/etc/passwd", "/sbin/init"}, "me": {"/carte.toml", "/etc/motd", "/etc/passwd"}, "work": {"/run"}, "notes": nil,
		})
		got, found := b.remark(r.stack, r.on, r.code, r.words, paths)
		if !found {
			t.Errorf("%s %v on %q: no %s with %q in %s", r.stack.Name, r.stack.Layers, r.on, r.code, r.words, got.Text)
			continue
		}
		seen[r.code] = true
		stops := strings.HasPrefix(r.code, "E-")
		if want := map[byte]Grade{'E': GradeStop, 'W': GradeWarn, 'I': GradeGood}[r.code[0]]; got.Grade != want {
			t.Errorf("%s has the grade %s", r.code, got.Grade)
		}
		if got.Fix == "" && got.Grade != GradeGood {
			t.Errorf("%s: %s: and no fix", r.code, got.Text)
		}
		if got.Edited != nil {
			if _, still := b.remark(*got.Edited, r.on, r.code, r.words, paths); still {
				t.Errorf("%s: the mended stack %+v has it still", r.code, *got.Edited)
			}
		}
		j := b.now().Judge(r.stack, paths)
		if ok := r.on == "" && j.OK || r.on != "" && slices.ContainsFunc(j.Machines, func(m JudgedMachine) bool { return m.Machine == r.on && m.OK }); ok && stops {
			t.Errorf("%s is said and the stack is good", r.code)
		}
	}
	t.Logf("%d codes", len(seen))
}

// change puts a row down as if a verb had.
func (b *bench) change(c Change) {
	b.t.Helper()
	if _, err := b.do(b.t.Context(), func(d *draft) error { d.put(c); return nil }); err != nil {
		b.t.Fatal(err)
	}
}

// remark finds one that has the code and the words; else its text is all that was said.
func (b *bench) remark(st Stack, on, code, words string, paths func(PlanLayer) ([]string, error)) (Remark, bool) {
	j := b.now().Judge(st, paths)
	all := j.Remarks
	if on != "" {
		i := slices.IndexFunc(j.Machines, func(m JudgedMachine) bool { return m.Machine == on })
		if i < 0 {
			return Remark{Text: fmt.Sprintf("no %s in %+v", on, j)}, false
		}
		all = j.Machines[i].Remarks
	}
	var text strings.Builder
	for _, r := range all {
		if r.Code == code && strings.Contains(r.Text, words) {
			return r, true
		}
		fmt.Fprintf(&text, "\n%s %s (%s)", r.Code, r.Text, r.Fix)
	}
	return Remark{Text: text.String()}, false
}

// A stack whose end is known is not told that it has none.
func TestJudgeKnowsTheEnd(t *testing.T) {
	b := furnished(t)
	for i, st := range []Stack{
		{Layers: named("root", "work")}, {Layers: named("root"), Until: RungRun}, {Layers: named("memtest")}, {Layers: named("mute")},
		{Layers: named("root"), Files: []TextFile{{Path: "/etc/rc", Text: "echo ::carte done > /dev/console\n"}}},
	} {
		if r, said := b.remark(st, "", "I-ENDS", "", nil); said {
			t.Errorf("%d: %+v", i, r)
		}
	}
}

// What Judge calls good is queued, and what it stops is refused.
func TestJudgeAndQueueAgree(t *testing.T) {
	b := furnished(t)
	b.must(ArmDisk{Machine: "vm", Disk: b.machine("vm").Virtual.Serial})
	for _, layers := range [][]Ref{named("root"), named("root", "hpt"), named("root", "me", "work"), named("deb"), named("memtest"), named("huge"), named("root", "notes"), named("root", "tools@1")} {
		st := Stack{Name: "try", Layers: layers}
		j := b.now().Judge(st, nil)
		if err := b.Check(PutStack{Stack: st}); (err == nil) != j.OK {
			t.Errorf("%v: the stack is refused with %v, and judged %+v", layers, err, j.Remarks)
		}
		b.must(PutStack{Stack: st})
		for _, m := range j.Machines {
			if err := b.Check(Queue{Machine: m.Machine, Stack: "try"}); (err == nil) != m.OK {
				t.Errorf("%v on %s: queueing it says %v, and it is judged %+v", layers, m.Machine, err, m.Remarks)
			}
		}
		b.must(RemoveStack{Name: "try"})
	}
}

func TestFingerprint(t *testing.T) {
	b := furnished(t)
	of := func(st Stack) string {
		t.Helper()
		text, err := b.now().FingerprintOf(st)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	st := Stack{Name: "a", Layers: named("root", "tools@1"), Note: "one"}
	first := of(st)
	if !regexp.MustCompile(`^carte:[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}$`).MatchString(first) {
		t.Errorf("it is %q", first)
	}
	same := st
	same.Name, same.Note, same.Layers = "b", "two", named("root@1", "tools@1")
	if of(same) != first {
		t.Error("another name and the same bytes are another fingerprint")
	}
	for what, change := range map[string]func(*Stack){
		"another version": func(s *Stack) { s.Layers = named("root", "tools") }, "another order": func(s *Stack) { s.Layers = named("root", "me", "tools@1") },
		"another kernel line": func(s *Stack) { s.Cmdline = "quiet" }, "a file": func(s *Stack) { s.Files = []TextFile{{Path: "/a", Text: "b"}} },
		"a parameter": func(s *Stack) { s.Params = map[string]string{"a": "1"} }, "a clause": func(s *Stack) { s.Asks = Terms{Results: Required} },
		"another upper": func(s *Stack) { s.Upper = UpperDisk }, "what is kept": func(s *Stack) { s.Keep = []string{"root"} },
	} {
		x := st
		if change(&x); of(x) == first {
			t.Errorf("%s is the same fingerprint", what)
		}
	}
	s := b.now()
	for _, m := range s.Machines {
		p, err := s.Plan(st, m, nil)
		if err != nil || p.Fingerprint() != first {
			t.Errorf("on %s it is %s, %v, and %s without a machine", m.Label(), p.Fingerprint(), err, first)
		}
	}
}

// How long a boot takes is taken from what was seen, or is not said.
func TestReady(t *testing.T) {
	b := newBench(t)
	on := func() JudgedMachine {
		t.Helper()
		for _, m := range b.now().Judge(b.now().Stacks["tree"], nil).Machines {
			if m.Machine == "vm" {
				return m
			}
		}
		t.Fatal("no vm")
		return JudgedMachine{}
	}
	if j := on(); j.Ready != 0 || j.Moves != GiB {
		t.Errorf("before the first boot: %+v", j)
	}
	id := b.queue("vm", "tree")
	b.claim(b.script(vmMAC), 1, usual)
	b.clock = b.clock.Add(2 * time.Second)
	b.report(1, Report{Boot: id, Rung: RungProbe})
	b.report(1, Report{Boot: id, Rung: RungWrite, Writing: true})
	b.clock = b.clock.Add(10 * time.Second)
	b.report(1, Report{Boot: id, Rung: RungHandover, Proven: true, Moved: Moved{Written: GiB}})
	b.clock = b.clock.Add(3 * time.Second)
	b.say("vm", "::carte ready")
	if j := on(); j.Moves != 0 || j.Ready != 5 || !strings.Contains(j.ReadyFrom, "without what they wrote") {
		t.Errorf("with all of it there: %d bytes, %v s %s", j.Moves, j.Ready, j.ReadyFrom)
	}
	b.must(AddVersion{Version: Version{Image: "tree", Root: chunk.ID{7}, Bytes: GiB, Content: GiB / 2}, Kind: "system", Form: FormTree})
	if j := on(); j.Moves != GiB/2 || j.Ready != 15 || !strings.Contains(j.ReadyFrom, "as its one boot here took") {
		t.Errorf("with another version: %d bytes, %v s %s", j.Moves, j.Ready, j.ReadyFrom)
	}
	if got := b.now().Judge(Stack{Name: "other", Layers: named("tree")}, nil); got.Machines[1].Ready != 10 {
		t.Errorf("another stack of the same: %+v", got.Machines[1])
	}
}

// Boots that wrote next to nothing, and were busy with other things for long, say nothing of how fast a disk is written.
func TestReadyOfLittle(t *testing.T) {
	at := time.Unix(1e9, 0)
	boot := func(stack string, wrote int64, write, prepare float64) Boot {
		b := Boot{Begun: at, Attempt: 1, Moved: Moved{Written: wrote}}
		b.Plan.Stack, b.Plan.Form = stack, FormTree
		now := at
		for _, r := range []struct {
			Rung
			after float64
		}{{RungHello, 60}, {RungProbe, 1}, {RungHash, 1}, {RungFetch, 10}, {RungWrite, 0}, {RungVerify, write}, {RungPrepare, 1}, {RungHandover, prepare}, {RungRun, 27}} {
			now = now.Add(time.Duration(r.after * float64(time.Second)))
			b.climb(r.Rung, now)
		}
		return b
	}
	little := []Boot{boot("a", 300<<10, 8, 45), boot("a", 200<<10, 8, 45), boot("a", 400<<10, 8, 45)} // 144 s without 9 s of writing
	for _, c := range []struct {
		stack string
		past  []Boot
		moves int64
		ready float64
		from  string
	}{
		{"new", little, 15 << 20, 144, "so little adds next to nothing"},
		{"new", little, 15 << 30, 0, ""},
		{"new", little, 0, 144, "without what they wrote"},
		{"new", append(little, boot("b", 90<<20, 8, 45)), 1000 << 20, 244, "at 10.5 MB/s, which one boot had"},
		{"a", little, 1 << 20, 153, "as its 3 boots here took"},
		{"a", append(little, boot("b", 90<<20, 8, 45)), 1000 << 20, 244, "at 10.5 MB/s"},
	} {
		p := Plan{Stack: c.stack}
		p.Form = FormTree
		if got, from := ready(p, c.past, c.moves); got != c.ready || !strings.Contains(from, c.from) {
			t.Errorf("%s with %s to move: %v s (%s), want %v s (%s)", c.stack, Bytes(c.moves), got, from, c.ready, c.from)
		}
	}
}

// Ten thousand files and fifty machines are judged at once.
func BenchmarkJudge(b *testing.B) {
	s := Snapshot{}
	s.fill()
	d := &draft{Snapshot: s, at: time.Unix(1e9, 0)}
	say := func(v Verb) {
		if err := v.decide(d); err != nil {
			b.Fatal(err)
		}
	}
	for i := range 4 {
		form := FormFiles
		if i == 0 {
			form = FormTree
		}
		for n := range 20 {
			say(AddVersion{Version: Version{Image: fmt.Sprint("i", i), Root: chunk.Sum(fmt.Append(nil, i, n)), Bytes: GiB}, Kind: "system", Form: form})
		}
	}
	for i := range 50 {
		say(AddMachine{Name: fmt.Sprint("m", i), Virtual: &Virtual{}})
	}
	for _, m := range d.SortedMachines() {
		m.Arms[0].Bytes = 64 * GiB
		d.put(m)
	}
	st := Stack{Name: "s", Layers: named("i0", "i1", "i2", "i3")}
	say(PutStack{Stack: st})
	for i := range 2000 {
		say(Queue{Machine: fmt.Sprint("m", i%50), Stack: "s"})
	}
	var list []string
	for i := range 10000 {
		list = append(list, fmt.Sprintf("/usr/share/doc/package-%d/file-%d", i%100, i))
	}
	for b.Loop() {
		if j := d.Snapshot.Judge(st, func(PlanLayer) ([]string, error) { return list, nil }); len(j.Machines) != 50 || !j.OK {
			b.Fatal(j)
		}
	}
}

// The fix of a code mends all that it was said of.
func TestAFixMendsAll(t *testing.T) {
	b := furnished(t)
	st := Stack{Name: "s", Layers: named("root", "tools", "hpt@1", "me")}
	j := b.now().Judge(st, nil)
	n := 0
	for _, r := range j.Remarks {
		if r.Code != "I-FLOATS" {
			continue
		}
		n++
		if r.Edited == nil || !slices.Equal(r.Edited.Layers, named("root@1", "tools@2", "hpt@1", "me@1")) {
			t.Errorf("%s: %+v", r.Text, r.Edited)
		}
	}
	if n != 3 || !slices.Equal(st.Layers, named("root", "tools", "hpt@1", "me")) {
		t.Errorf("%d remarks, and the stack is %v", n, st.Layers)
	}
	j = b.now().Judge(Stack{Name: "s", Layers: named("root", "tools@1", "notes")}, nil)
	for _, r := range j.Remarks {
		if r.Code == "W-OWNER" && (r.Edited == nil || len(r.Edited.Layers) != 2) {
			t.Errorf("%s: %+v", r.Text, r.Edited)
		}
	}
}
