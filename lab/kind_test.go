package lab

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"carte/lab/chunk"
)

// The table is DESIGN's.
func TestKinds(t *testing.T) {
	want := `machine true false true true false always machine
system true false false false true request -
user false true false true false changed -
project true false true false true results -
temporary false false false false false never date
`
	var got strings.Builder
	for _, k := range Kinds {
		text, _ := json.Marshal([]any{k.Name, k.Versioned, k.Checksummed, k.Joins, k.Updates, k.Shared, k.WrittenBack, or(k.Lifetime, "-")})
		got.WriteString(strings.NewReplacer(`"`, "", ",", " ", "[", "", "]", "").Replace(string(text)) + "\n")
		if err := k.Check(); err != nil {
			t.Errorf("kind %s: %v", k.Name, err)
		}
	}
	if got.String() != want {
		t.Errorf("the table is\n%s", got.String())
	}
}

func TestKindRefused(t *testing.T) {
	for words, k := range map[string]Kind{
		"has no name":                {WrittenBack: "never"},
		`letter 2 is not one of`:     {Name: "a/b", WrittenBack: "never"},
		`written_back is "often"`:    {Name: "a", WrittenBack: "often"},
		`lifetime is "long"`:         {Name: "a", WrittenBack: "never", Lifetime: "long"},
		"is never written back":      {Name: "a", WrittenBack: "never", Updates: true},
		"what the other does not":    {Name: "a", WrittenBack: "changed", Updates: true, Shared: true},
		"whose stacks they join":     {Name: "a", WrittenBack: "never", Joins: true},
		"kind system is there twice": {Name: "system", WrittenBack: "never"},
	} {
		wantError(t, words, CheckKinds([]Kind{k}), ErrInvalid, words)
	}
}

// dated gives an AddVersion a date to die at.
func dated(at time.Time) func(*AddVersion) { return func(v *AddVersion) { v.Dies = at } }

func other(v *AddVersion) { v.Root = chunk.Sum([]byte(v.Image + " other")) }

func owned(machine string) func(*AddVersion) { return func(v *AddVersion) { v.Owner = machine } }

// Every external clause is broken in every way that there is, and the refusal says which it was.
func TestExternalClauses(t *testing.T) {
	add := func(name, kind string, form Form, change ...func(*AddVersion)) AddVersion {
		v := AddVersion{Version: Version{Image: name, Root: chunk.Sum([]byte(name)), Bytes: 64 << 20}, Kind: kind, Form: form}
		for _, c := range change {
			c(&v)
		}
		return v
	}
	rows := []struct {
		clause, what string
		kind         error
		do           func(b *bench) error
	}{
		{ClauseVersioned, "another lab's version over one that is here", ErrRefused, func(b *bench) error {
			return b.tries(add("root", "system", FormTree, other, func(v *AddVersion) { v.Number = 1 }))
		}},
		{ClauseVersioned, "what a machine changed, over a newer one", ErrRefused, func(b *bench) error {
			b.must(add("tools", "system", FormFiles, func(v *AddVersion) { v.Root = chunk.ID{3} }))
			return b.tries(add("tools", "system", FormFiles, other, func(v *AddVersion) { v.Back, v.Parent = true, 2 }))
		}},
		{ClauseJoins, "a machine image in the stack of another", ErrRefused, func(b *bench) error {
			b.must(PutStack{Stack: Stack{Name: "s", Layers: named("root", "notes")}})
			return b.tries(Queue{Machine: "vm", Stack: "s"})
		}},
		{ClauseJoins, "a machine image given to another", ErrRefused, func(b *bench) error {
			return b.tries(add("notes", "machine", FormFiles, other, owned("vm")))
		}},
		{ClauseUpdates, "an update of a system that nobody asked for", ErrRefused, func(b *bench) error {
			_, err := b.now().MayWriteBack(b.runs("vm", Stack{Name: "s", Layers: named("root", "tools")}), "root")
			return err
		}},
		{ClauseShared, "a second machine for a user image", ErrRefused, func(b *bench) error {
			b.runs("vm", Stack{Name: "s", Layers: named("root", "me")})
			return b.tries(Queue{Machine: "metal", Stack: "s"})
		}},
		{ClauseShared, "a second machine, by a boot that is queued once more", ErrRefused, func(b *bench) error {
			id := b.runs("metal", Stack{Name: "s", Layers: named("root", "me")}).ID
			b.must(Stop{Boot: id})
			b.pass(RevokeGrace + time.Second)
			b.queue("vm", "s")
			return b.tries(Retry{Boot: id})
		}},
		{ClauseShared, "a second machine, by moving what waits", ErrRefused, func(b *bench) error {
			b.runs("vm", Stack{Name: "s", Layers: named("root", "me")})
			return b.tries(MoveBoot{Boot: b.queue("vm", "s"), Machine: "metal"})
		}},
		{ClauseShared, "a user image as the system", ErrRefused, func(b *bench) error {
			b.must(add("mine", "user", FormTree))
			return b.tries(PutStack{Stack: Stack{Name: "s", Layers: named("mine")}})
		}},
		{ClauseWritten, "a project's changes", ErrRefused, func(b *bench) error {
			_, err := b.now().MayWriteBack(b.runs("vm", Stack{Name: "s", Layers: named("root", "work")}), "work")
			return err
		}},
		{ClauseWritten, "a temporary image's changes", ErrRefused, func(b *bench) error {
			_, err := b.now().MayWriteBack(b.runs("vm", Stack{Name: "s", Layers: named("root", "tmp")}), "tmp")
			return err
		}},
		{ClauseWritten, "a user image without a place of its own", ErrRefused, func(b *bench) error {
			_, err := b.now().MayWriteBack(b.runs("vm", Stack{Name: "s", Layers: named("root", "me")}), "me")
			return err
		}},
		{ClauseWritten, "a stack that keeps what never is", ErrRefused, func(b *bench) error {
			return b.tries(PutStack{Stack: Stack{Name: "s", Layers: named("root", "tmp"), Keep: []string{"tmp"}}})
		}},
		{ClauseLifetime, "a temporary image without a date", ErrRefused, func(b *bench) error {
			return b.tries(add("t", "temporary", FormFiles))
		}},
		{ClauseLifetime, "a temporary image that is dead when it comes", ErrRefused, func(b *bench) error {
			return b.tries(add("t", "temporary", FormFiles, dated(b.clock)))
		}},
		{ClauseLifetime, "a date for a system", ErrRefused, func(b *bench) error {
			return b.tries(add("root", "system", FormTree, other, dated(b.clock.Add(time.Hour))))
		}},
		{ClauseLifetime, "a machine for a system", ErrRefused, func(b *bench) error {
			return b.tries(add("root", "system", FormTree, other, owned("vm")))
		}},
		{ClauseLifetime, "a machine image of no machine", ErrRefused, func(b *bench) error {
			return b.tries(add("m", "machine", FormFiles))
		}},
		{ClauseLifetime, "a machine image of a stranger", ErrRefused, func(b *bench) error {
			b.script("52:54:00:00:00:77")
			return b.tries(add("m", "machine", FormFiles, owned("52:54:00:00:00:77")))
		}},
		{ClauseLifetime, "a stack of what has died", ErrNotFound, func(b *bench) error {
			b.pass(2 * time.Hour)
			return b.tries(PutStack{Stack: Stack{Name: "s", Layers: named("root", "tmp")}})
		}},
		{ClauseLifetime, "a boot of what has died", ErrNotFound, func(b *bench) error {
			b.must(PutStack{Stack: Stack{Name: "s", Layers: named("root", "tmp@1")}})
			b.pass(2 * time.Hour)
			return b.tries(Queue{Machine: "vm", Stack: "s"})
		}},
		{ClauseLifetime, "what went with its machine", ErrNotFound, func(b *bench) error {
			b.must(PutStack{Stack: Stack{Name: "s", Layers: named("root", "notes")}})
			b.must(Forget{Machine: "metal", Confirm: "metal"})
			return b.tries(Queue{Machine: "vm", Stack: "s"})
		}},
	}
	for _, r := range rows {
		t.Run(r.clause+"/"+r.what, func(t *testing.T) {
			err := r.do(furnished(t))
			wantError(t, r.what, err, r.kind, `clause "`+r.clause+`" of kind `)
			if err != nil {
				t.Log(err)
			}
		})
	}
}

// tries says a verb, and wants nothing of it.
func (b *bench) tries(v Verb) error {
	_, err := b.Say(b.t.Context(), v)
	return err
}

// runs brings a boot of a stack to Running.
func (b *bench) runs(machine string, st Stack) Boot {
	b.t.Helper()
	b.must(PutStack{Stack: st})
	id := b.queue(machine, st.Name)
	b.take(id, Working, 1)
	b.report(1, Report{Boot: id, Rung: RungWrite, Writing: true})
	b.report(1, Report{Boot: id, Rung: RungHandover, Proven: true})
	b.report(1, Report{Boot: id, Shim: true})
	b.in(id, Running)
	return b.boot(id)
}

// What is unchanged is not a version, and nothing is sent for it (clause "checksummed").
func TestUnchangedSendsNothing(t *testing.T) {
	b := furnished(t)
	me, _ := b.now().Version(Ref{Name: "me"})
	for _, back := range []bool{false, true} {
		got := b.must(AddVersion{Version: Version{Image: "me", Root: me.Root, Bytes: me.Bytes, Parent: 1}, Kind: "user", Form: FormFiles, Back: back})
		if len(got.Versions)+len(got.Images) > 0 {
			t.Errorf("the same bytes (written back: %v) changed %+v", back, got)
		}
	}
	got := b.must(AddVersion{Version: Version{Image: "me", Root: chunk.ID{8}, Bytes: me.Bytes, Parent: 1}, Kind: "user", Form: FormFiles, Back: true})
	if len(got.Versions) != 1 || got.Versions[0].Number != 2 || got.Versions[0].Parent != 1 {
		t.Errorf("what changed is %+v", got.Versions)
	}
}

// A machine image is in every plan of its machine without a word, in none of another's, and follows its machine's name.
func TestMachineImageJoins(t *testing.T) {
	b := furnished(t)
	b.must(PutStack{Stack: Stack{Name: "s", Layers: named("root", "tools")}})
	joins := func(stack, machine string) bool {
		t.Helper()
		p, err := b.now().ResolveOn(stack, b.machine(machine), nil)
		if err != nil {
			t.Fatal(err)
		}
		return p.Layers[len(p.Layers)-1].Ref.Name == "notes"
	}
	if !joins("s", "metal") || joins("s", "vm") {
		t.Error("notes is not in the plans of metal, or in those of vm")
	}
	b.must(PutStack{Stack: Stack{Name: "live", Layers: named("memtest")}})
	if joins("deb", "metal") || joins("live", "metal") {
		t.Error("notes lies over a whole disk, or in memory")
	}
	b.must(SetMachine{Machine: "metal", Values: map[string]string{"name": "iron"}})
	if !joins("s", "iron") || b.now().Images["notes"].Owner != "iron" {
		t.Error("notes stayed behind when its machine got another name")
	}
	id := b.queue("iron", "s")
	b.must(Queue{Machine: "iron", Stack: "s"})
	b.must(ArmDisk{Machine: "vm", Disk: b.machine("vm").Virtual.Serial})
	b.refused(MoveBoot{Boot: id + 1, Machine: "vm"}, ErrRefused, "its plan was made for iron")
}

// An image that dies while a boot has it dies when that is over.
func TestDyingWaitsForTheBoot(t *testing.T) {
	b := furnished(t)
	id := b.runs("vm", Stack{Name: "s", Layers: named("root", "tmp")}).ID
	b.must(TagImage{Ref: Ref{"tmp", 1}, Tag: "now"})
	there := func() bool { _, ok := b.now().Versions["tmp@1"]; return ok }
	for range 4 {
		b.clock = b.clock.Add(30 * time.Minute)
		b.report(1, Report{Boot: id, Shim: true})
	}
	if !there() {
		t.Fatal("it died under a system that runs")
	}
	b.report(1, Report{Boot: id, Shim: true, Lines: []string{"::carte done"}})
	b.in(id, Done)
	b.pass(time.Second)
	if there() || len(b.now().Images["tmp"].Tags) > 0 {
		t.Error("it lives on")
	}
	b.refused(Retry{Boot: id}, ErrNotFound, "tmp@1")
	_, err := b.now().Version(Ref{Name: "tmp"})
	wantError(t, "tmp", err, ErrNotFound, "image tmp died at 2026-03-01T13:00:00Z")
	b.image("tmp", "temporary", FormFiles, dated(b.clock.Add(time.Hour)))
	if v, err := b.now().Version(Ref{Name: "tmp"}); err != nil || v.Number != 2 {
		t.Errorf("with a new date it is %v, %v", v.Ref(), err)
	}
}

// One that dies while a boot waits ends the wait, and is gone with it.
func TestDyingEndsTheWait(t *testing.T) {
	b := furnished(t)
	id := b.runs("vm", Stack{Name: "s", Layers: named("root", "tmp")}).ID
	waits := b.must(Queue{Machine: "vm", Stack: "s"}).Boots[0].ID
	b.clock = b.clock.Add(2 * time.Hour)
	b.report(1, Report{Boot: id, Shim: true, Lines: []string{"::carte done"}})
	b.pass(time.Second)
	if x := b.now().Boots[waits]; x.State != Revoked || !strings.Contains(x.Reason, `clause "lifetime"`) {
		t.Errorf("the boot that waited is %s: %q", x.State, x.Reason)
	}
	if _, ok := b.now().Versions["tmp@1"]; ok {
		t.Error("it lives on")
	}
}

// A system is written back where its stack asks for it, and a user image always.
func TestMayWriteBack(t *testing.T) {
	b := furnished(t)
	b.image("home", "user", FormFiles, func(v *AddVersion) { v.Place = "/home/me" })
	x := b.runs("vm", Stack{Name: "s", Layers: named("root", "tools", "home"), Keep: []string{"root"}})
	for image, place := range map[string]string{"root": "", "home": "/home/me"} {
		if l, err := b.now().MayWriteBack(x, image); err != nil || l.Ref != (Ref{image, 1}) || l.Place != place {
			t.Errorf("%s: %+v, %v", image, l, err)
		}
	}
	_, err := b.now().MayWriteBack(x, "twin")
	wantError(t, "an image of another stack", err, ErrDenied, "not in the plan")
	b.refused(PutStack{Stack: Stack{Name: "t", Layers: named("root", "tools"), Keep: []string{"root", "tools"}}}, ErrRefused, "can go into one of them")
	b.refused(PutStack{Stack: Stack{Name: "t", Layers: named("root", "hpt"), Keep: []string{"hpt"}}}, ErrRefused, "is a kernel")
	b.refused(PutStack{Stack: Stack{Name: "t", Layers: named("deb"), Keep: []string{"deb"}}}, ErrRefused, "carte capture")
	b.refused(PutStack{Stack: Stack{Name: "t", Layers: named("root"), Keep: []string{"tools"}}}, ErrInvalid, "none of its images")
}
