package lab

import (
	"strings"
	"testing"

	"carte/lab/chunk"
)

func TestStackRefused(t *testing.T) {
	b := furnished(t)
	ok := Stack{Name: "s", Layers: named("root")}
	for _, x := range []struct {
		words  string
		kind   error
		change func(*Stack)
	}{
		{"the stack has no name", ErrInvalid, func(s *Stack) { s.Name = "" }},
		{"image root is in it twice", ErrInvalid, func(s *Stack) { s.Layers = named("root", "root@1") }},
		{"it has no images", ErrInvalid, func(s *Stack) { s.Layers = nil }},
		{"24 are the most", ErrInvalid, func(s *Stack) { s.Layers = named(strings.Fields(many(25))...) }},
		{"control character", ErrInvalid, func(s *Stack) { s.Cmdline = "a\nb" }},
		{"handover, run or collect", ErrInvalid, func(s *Stack) { s.Until = RungProbe }},
		{"a system starts by pivot", ErrInvalid, func(s *Stack) { s.Start = StartCapture }},
		{"changes go to memory or to the disk", ErrInvalid, func(s *Stack) { s.Upper = "tape" }},
		{"proven always, is sampled or is trusted", ErrInvalid, func(s *Stack) { s.Reset = "never" }},
		{"its path is absolute", ErrInvalid, func(s *Stack) { s.Files = []TextFile{{Path: "etc/x"}} }},
		{"its path is absolute", ErrInvalid, func(s *Stack) { s.Files = []TextFile{{Path: "/etc/../x"}} }},
		{"its path is absolute", ErrInvalid, func(s *Stack) { s.Files = []TextFile{{Path: "/"}} }},
		{"mode at most 7777", ErrInvalid, func(s *Stack) { s.Files = []TextFile{{Path: "/a", Mode: 0o10000}} }},
		{"its text UTF-8", ErrInvalid, func(s *Stack) { s.Files = []TextFile{{Path: "/a", Text: "\xff"}} }},
		{"64 are the most", ErrInvalid, func(s *Stack) { s.Files = make([]TextFile, 65) }},
		{"clause \"quick\"", ErrInvalid, func(s *Stack) { s.Asks = Terms{"quick": Optional} }},
		{"only a disk has a last partition", ErrRefused, func(s *Stack) { s.Grow = true }},
		{"files, upper and reset are for trees", ErrRefused, func(s *Stack) { s.Layers, s.Upper = named("deb"), UpperDisk }},
		{"which has its own command line", ErrRefused, func(s *Stack) { s.Layers, s.Cmdline = named("deb"), "quiet" }},
		{"nothing can be laid over one", ErrRefused, func(s *Stack) { s.Layers = named("deb", "tools") }},
		{"a kernel that runs in memory comes alone", ErrRefused, func(s *Stack) { s.Layers = named("memtest", "tools") }},
		{"{x} is no parameter", ErrInvalid, func(s *Stack) { s.Files = []TextFile{{Path: "/a", Text: "{x}"}} }},
	} {
		st := ok
		x.change(&st)
		b.refused(PutStack{Stack: st}, x.kind, x.words)
	}
	b.must(PutStack{Stack: ok})
	b.refused(PutStack{Stack: ok}, ErrBusy, "carte stack rm s")
	b.refused(PutStack{Stack: Stack{Name: "t", Layers: named("root")}, Edit: true}, ErrNotFound, `stack "t"`)
}

func many(n int) string {
	var names []string
	for i := range n {
		names = append(names, "i"+strings.Repeat("x", i))
	}
	return strings.Join(names, " ")
}

// An edit keeps the day on which the stack was made; what is queued keeps its plan; a pin never moves, and what floats does.
func TestStackEdit(t *testing.T) {
	b := furnished(t)
	b.must(PutStack{Stack: Stack{Name: "pin", Layers: named("root", "tools@1")}})
	b.must(PutStack{Stack: Stack{Name: "float", Layers: named("root", "tools")}})
	made := b.now().Stacks["pin"].Since
	b.queue("vm", "deb")
	id := b.queue("vm", "pin")
	plan := b.boot(id).Plan.Digest
	b.clock = b.clock.Add(60e9)
	b.must(PutStack{Stack: Stack{Name: "pin", Layers: named("root", "tools@1"), Cmdline: "quiet", Note: "a\x1b[2Jb"}, Edit: true})
	if st := b.now().Stacks["pin"]; !st.Since.Equal(made) || st.Cmdline != "quiet" || strings.Contains(st.Note, "\x1b") {
		t.Errorf("the stack is %+v", st)
	}
	if b.boot(id).Plan.Digest != plan || b.boot(id).Plan.Cmdline != "" {
		t.Error("what was queued has another plan")
	}
	b.image("tools", "system", FormFiles, func(v *AddVersion) { v.Root[0] ^= 1 })
	for stack, want := range map[string]string{"pin": "tools@1", "float": "tools@3"} {
		if p, err := b.now().Resolve(stack); err != nil || p.Layers[1].Ref.String() != want {
			t.Errorf("%s is %v, %v", stack, p.Layers, err)
		}
	}
}

func TestTags(t *testing.T) {
	b := furnished(t)
	b.must(TagImage{Ref: Ref{Name: "tools"}, Tag: "stable"})
	b.must(TagImage{Ref: Ref{"tools", 1}, Tag: "old"})
	ref := func(text string) string {
		r, err := b.now().ParseRef(text)
		if err != nil {
			return err.Error()
		}
		return r.String()
	}
	if ref("tools@stable") != "tools@2" || ref("tools@old") != "tools@1" || ref("tools") != "tools" || ref("tools@1") != "tools@1" || !strings.Contains(ref("tools@new"), "a version is a number") {
		t.Errorf("%s, %s, %s", ref("tools@stable"), ref("tools@old"), ref("tools@new"))
	}
	b.must(TagImage{Ref: Ref{"tools", 1}, Tag: "stable"})
	if got := strings.Join(b.now().TagsOf(b.now().Versions["tools@1"]), " "); got != "old stable" || ref("tools@stable") != "tools@1" {
		t.Errorf("tools@1 is called %s", got)
	}
	rev := b.now().Rev
	if b.must(TagImage{Ref: Ref{"tools", 1}, Tag: "stable"}); b.now().Rev != rev {
		t.Error("the same tag again changed something")
	}
	b.must(TagImage{Ref: Ref{Name: "tools"}, Tag: "old", Remove: true})
	b.refused(TagImage{Ref: Ref{Name: "tools"}, Tag: "old", Remove: true}, ErrNotFound, "it has stable")
	b.refused(TagImage{Ref: Ref{Name: "tools"}, Tag: "3"}, ErrInvalid, "is a number")
	b.refused(TagImage{Ref: Ref{Name: "tools"}, Tag: "a b"}, ErrInvalid, "letter 2")
	b.refused(TagImage{Ref: Ref{"tools", 9}, Tag: "x"}, ErrNotFound)
	b.must(RemoveImage{Ref: Ref{"tools", 1}, Confirm: "tools@1"})
	if tags := b.now().Images["tools"].Tags; tags != nil {
		t.Errorf("the tags of a version that is gone: %v", tags)
	}
}

// Going back is a version of its own: nothing is lost, and what floats takes it.
func TestRollback(t *testing.T) {
	b := furnished(t)
	b.must(PutStack{Stack: Stack{Name: "float", Layers: named("root", "tools")}})
	v := b.must(RollbackImage{Image: "tools", To: 1, Author: "me\x1b"}).Versions[0]
	old := b.now().Versions["tools@1"]
	if v.Number != 3 || v.Root != old.Root || v.Parent != 1 || v.Stored != 0 || v.Message != "as tools@1" || v.Content != old.Content || strings.Contains(v.Author, "\x1b") {
		t.Errorf("the new version is %+v", v)
	}
	if p, err := b.now().Resolve("float"); err != nil || p.Layers[1].Ref.Version != 3 || len(b.now().VersionsOf("tools")) != 3 {
		t.Errorf("the plan is %+v, %v", p.Layers, err)
	}
	b.refused(RollbackImage{Image: "tools", To: 1}, ErrRefused, "tools@3, the newest, is as tools@1 already")
	b.refused(RollbackImage{Image: "tools"}, ErrInvalid, "--to 3")
	b.refused(RollbackImage{Image: "tools", To: 9}, ErrNotFound)
	b.refused(AddVersion{Version: Version{Image: "tools", Root: old.Root, Bytes: 5, Parent: 2, Message: "x"}, Kind: "user", Form: FormFiles}, ErrRefused, "is of kind system")
}

// What is said of an image counts as much as its bytes: another place, or other clauses, are another version; what nobody says is
// as it was.
func TestSameBytesOtherwise(t *testing.T) {
	b := newBench(t)
	add := func(root byte, place string, offers Terms) (made []Version) {
		return b.must(AddVersion{Version: Version{Image: "mine", Root: chunk.ID{root}, Bytes: 4096, Place: place, Offers: offers}, Kind: "user", Form: FormFiles}).Versions
	}
	add(1, "/home/me", Terms{Lazy: Optional})
	if again := add(1, "", nil); len(again) != 0 {
		t.Errorf("the same once more made %+v", again)
	}
	if v := add(2, "", nil); len(v) != 1 || v[0].Place != "/home/me" || v[0].Offers[Lazy] != Optional {
		t.Errorf("the next version is %+v", v)
	}
	if v := add(2, "/srv", nil); len(v) != 1 || v[0].Number != 3 || v[0].Place != "/srv" || v[0].Offers[Lazy] != Optional {
		t.Errorf("at another place it is %+v", v)
	}
	if v := add(2, "", Terms{Lazy: Required}); len(v) != 1 || v[0].Offers[Lazy] != Required {
		t.Errorf("with another clause it is %+v", v)
	}
	if v := b.must(RollbackImage{Image: "mine", To: 2}).Versions; len(v) != 1 || v[0].Place != "/home/me" || v[0].Offers[Lazy] != Optional {
		t.Errorf("as it was it is %+v", v)
	}
	b.refused(AddVersion{Version: Version{Image: "tree", Root: chunk.ID{9}, Bytes: 4096, Place: "/x"}, Kind: "system", Form: FormTree}, ErrInvalid, "--form files")
}

// A kernel's own words come before the stack's.
func TestKernelsOwnLine(t *testing.T) {
	b := newBench(t)
	b.must(AddVersion{Version: Version{Image: "hpt", Root: chunk.ID{31}, Bytes: 4096, Cmdline: "mitigations=off"}, Kind: "system", Form: FormKernel})
	b.must(PutStack{Stack: Stack{Name: "hpt", Layers: []Ref{{Name: "tree"}, {Name: "hpt"}}, Cmdline: "quiet"}})
	if p, err := b.now().Resolve("hpt"); err != nil || p.Cmdline != "mitigations=off quiet" {
		t.Errorf("the kernel's line is %q, %v", p.Cmdline, err)
	}
	b.refused(AddVersion{Version: Version{Image: "hpt", Root: chunk.ID{32}, Bytes: 4096, Cmdline: "a\nb"}, Kind: "system", Form: FormKernel}, ErrInvalid, "byte 1")
}
