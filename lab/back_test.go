package lab

import (
	"testing"

	"carte/lab/chunk"
)

// Boots that wait in a row each change what the one before them has left, where their stack floats; a pinned one never moves
// by itself, and what it changes would hide the newer version.
func TestWriteBackInARow(t *testing.T) {
	b := furnished(t)
	terms := Terms{Network: Optional}
	b.image("home", "user", FormFiles, offers(terms), func(v *AddVersion) { v.Place = "/home/me" })
	b.must(PutStack{Stack: Stack{Name: "float", Layers: named("root", "home")}})
	b.must(PutStack{Stack: Stack{Name: "pin", Layers: named("root", "home@1")}})
	first, second, pinned := b.queue("vm", "float"), b.queue("vm", "float"), b.queue("vm", "pin")
	run := func(id int64, key int) {
		t.Helper()
		b.take(id, Working, key)
		b.report(key, Report{Boot: id, Rung: RungWrite, Writing: true})
		b.report(key, Report{Boot: id, Rung: RungHandover, Proven: true})
		b.report(key, Report{Boot: id, Shim: true})
	}
	back := func(id int64, root byte) error {
		_, err := b.Say(t.Context(), WroteBack{Boot: id, AddVersion: AddVersion{Version: Version{Image: "home", Root: chunk.ID{root}, Bytes: 80 << 20, Place: "/home/me", Offers: terms}}})
		return err
	}
	run(first, 1)
	was := b.boot(second).Plan.Digest
	if err := back(first, 21); err != nil {
		t.Fatal(err)
	}
	if x := b.boot(second); x.Plan.Layers[1].Ref.Version != 2 || x.Plan.Layers[1].Bytes != 80<<20 || x.Plan.Digest == was || x.Moved.Total != x.Plan.Bytes() {
		t.Errorf("what waits has %+v", x.Plan.Layers[1])
	}
	now, err := b.now().ResolveOn("float", b.machine("vm"), nil)
	if err != nil || now.Digest != b.boot(second).Plan.Digest {
		t.Errorf("what waits is another plan than the same stack now: %v", err)
	}
	if b.boot(pinned).Plan.Layers[1].Ref.Version != 1 {
		t.Error("a pinned one moved")
	}
	if err := back(first, 22); err != nil || b.boot(second).Plan.Layers[1].Ref.Version != 3 {
		t.Errorf("the same boot once more: %v, %+v", err, b.boot(second).Plan.Layers[1])
	}
	b.report(1, Report{Boot: first, Shim: true, Lines: []string{"::carte done"}})
	run(second, 2)
	if err := back(second, 23); err != nil || len(b.boot(second).Wrote) != 1 {
		t.Errorf("the second: %v, %+v", err, b.boot(second).Wrote)
	}
	b.report(2, Report{Boot: second, Shim: true, Lines: []string{"::carte done"}})
	wantError(t, "after its end", back(second, 24), ErrDenied, "writes nothing back")
	run(pinned, 3)
	wantError(t, "the pinned one", back(pinned, 25), ErrRefused, `clause "versioned"`, "home@4 is newer")
}

// A boot is not moved to where another machine's own image would join.
func TestMovedPlansAreWhole(t *testing.T) {
	b := furnished(t)
	b.must(PutStack{Stack: Stack{Name: "s", Layers: named("root")}})
	b.queue("vm", "deb")
	id := b.queue("vm", "s")
	b.refused(MoveBoot{Boot: id, Machine: "metal"}, ErrRefused, "its plan was made for vm")
	b.must(RemoveImage{Ref: Ref{Name: "notes"}, Confirm: "notes"})
	b.must(MoveBoot{Boot: id, Machine: "metal"})
}
