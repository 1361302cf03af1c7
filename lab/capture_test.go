package lab

import (
	"strings"
	"testing"

	"carte/lab/chunk"
)

// capture queues a capture of a machine's disk and returns the boot's number.
func (b *bench) capture(v QueueCapture) int64 {
	b.t.Helper()
	if v.Machine == "" {
		v.Machine = "vm"
	}
	return b.must(v).Boots[0].ID
}

// flashed lays a stack on a machine and ends the boot.
func (b *bench) flashed(machine, stack string, key int) {
	b.t.Helper()
	id := b.queue(machine, stack)
	b.take(id, Handover, key)
	b.must(Stop{Boot: id})
}

// A version that has become larger than its base says so: it no longer fits where that one did.
func TestCaptureThatHasGrown(t *testing.T) {
	b := newBench(t)
	b.flashed("vm", "deb", 1)
	for i, bytes := range []int64{GiB, 3 * GiB} {
		id := b.capture(QueueCapture{Image: "deb", Base: 1})
		b.claim(b.script(vmMAC), i+2, usual)
		b.must(Captured{Boot: id, AddVersion: AddVersion{Version: Version{Root: chunk.ID{byte(i + 20)}, Bytes: bytes}}})
		const says = "it has 3.2 GB, its base deb@1 has 1.1 GB: it needs a disk as large"
		if got := strings.Contains(b.boot(id).Reason, says); got != (bytes > GiB) {
			t.Errorf("a capture of %d bytes: %s", bytes, b.boot(id).Reason)
		}
	}
}

// captured says what the store says when a manifest was kept.
func (b *bench) captured(id int64, root byte) error {
	_, err := b.Say(b.t.Context(), Captured{Boot: id, AddVersion: AddVersion{Version: Version{Root: chunk.ID{root}, Bytes: 1 << 30, Content: 1 << 20, Found: "ext4"}}})
	return err
}

func TestCapture(t *testing.T) {
	b := newBench(t)
	b.flashed("vm", "deb", 1)
	held := b.machine("vm").Holds[0]
	id := b.capture(QueueCapture{Image: "deb", Message: "new\x1b kernel", Author: "ann"})
	x := b.boot(id)
	if x.Plan.Stack != "capture deb" || x.Plan.Start != StartCapture || x.Plan.Form != FormDisk || x.Plan.Capture.Kind != "system" || len(x.Plan.Layers) != 0 || x.Plan.Bytes() != 0 {
		t.Errorf("the plan is %+v", x.Plan)
	}
	o := b.claim(b.script(vmMAC), 2, usual)
	if o.Do != DoCapture || o.Boot != id || o.Disk != held.DiskID || o.Base.Ref != held.Ref || o.Base.Root != held.Root || o.Base.Offset != 0 || len(o.Writes) != 0 {
		t.Errorf("orders %+v", o)
	}
	if got, err := b.Capturing(t.Context(), agentKey(2)); err != nil || got.ID != id {
		t.Errorf("capturing %+v, %v", got, err)
	}
	if roots, err := b.Allowed(t.Context(), agentKey(2)); err != nil || len(roots) != 1 || roots[0] != held.Root {
		t.Errorf("it may read %v, %v", roots, err)
	}
	if _, err := b.Report(t.Context(), agentKey(2), Report{Boot: id, Rung: RungWrite, Writing: true}); err == nil {
		t.Error("a capture may write")
	}
	b.report(2, Report{Boot: id, Rung: RungFetch, Moved: Moved{Total: 1 << 30, Read: 7, Sent: 5}})
	if err := b.captured(id, 9); err != nil {
		t.Fatal(err)
	}
	b.in(id, Done, "deb@2", "ext4", "vm")
	x = b.boot(id)
	v := b.now().Versions["deb@2"]
	if x.Captured != v.Ref() || x.Same || x.Moved.Sent != 5 || x.Moved.Total != 1<<30 || v.Parent != held.Ref.Version || v.Author != "ann" || strings.Contains(v.Message, "\x1b") || v.At.IsZero() {
		t.Errorf("boot %+v made %+v", x, v)
	}
	// The end once more, and reports that it has overtaken.
	if err := b.captured(id, 9); err != nil || len(b.now().VersionsOf("deb")) != 2 {
		t.Errorf("the same again: %v, %v", err, b.now().VersionsOf("deb"))
	}
	if r := b.report(2, Report{Boot: id, Rung: RungFetch}); r.Revoke != "" {
		t.Errorf("a late report is answered %+v", r)
	}
	if r := b.report(2, Report{}); r.Orders == nil || r.Orders.Do != DoLocal {
		t.Errorf("with nothing queued its agent is told %+v", r)
	}
	if s := b.script(vmMAC); s.Do != ScriptLocal {
		t.Errorf("the machine is told %+v", s)
	}
	b.wrote("image deb@2")
}

func TestCaptureThenNext(t *testing.T) {
	b := newBench(t)
	b.flashed("vm", "deb", 1)
	id, next := b.capture(QueueCapture{Image: "deb"}), b.queue("vm", "deb")
	b.claim(b.script(vmMAC), 2, usual)
	if err := b.captured(id, 9); err != nil {
		t.Fatal(err)
	}
	b.in(next, Starting)
	if o := b.now().Live[b.machine("vm").ID].Order; o != "" {
		t.Errorf("the machine is to be turned %q, its agent is there", o)
	}
	if r := b.report(2, Report{}); r.Orders == nil || r.Orders.Do != DoBoot || r.Orders.Boot != next {
		t.Errorf("the agent is told %+v", r)
	}
	b.in(next, Working)
	b.must(SetMachine{Machine: "vm", Values: map[string]string{"warm": "yes"}})
}

// What is there already becomes no version, also when the base is not the newest.
func TestCaptureSame(t *testing.T) {
	b := newBench(t)
	b.flashed("vm", "deb", 1)
	root := b.machine("vm").Holds[0].Root
	b.must(AddVersion{Version: Version{Image: "deb", Root: chunk.ID{77}, Bytes: 1 << 30}, Kind: "system", Form: FormDisk})
	id := b.capture(QueueCapture{Image: "deb"})
	b.claim(b.script(vmMAC), 2, usual)
	if err := b.captured(id, root[0]); err != nil {
		t.Fatal(err)
	}
	if x := b.boot(id); root == (chunk.ID{root[0]}) && (!x.Same || x.Captured.Version != 1 || len(b.now().VersionsOf("deb")) != 2) {
		t.Errorf("%+v, %+v", x, b.now().VersionsOf("deb"))
	}
	b.in(id, Done, "already")
}

func TestCaptureStrikes(t *testing.T) {
	b := newBench(t)
	b.flashed("vm", "deb", 1)
	id := b.capture(QueueCapture{Image: "deb"})
	for i := range MaxStrikes {
		b.claim(b.script(vmMAC), i+2, usual)
		b.report(i+2, Report{Boot: id, Error: "read error"})
	}
	b.in(id, Failed, "read error", "3 attempts")
	if len(b.now().VersionsOf("deb")) != 1 {
		t.Error("a capture that failed made a version")
	}
	if err := b.captured(id, 9); err == nil {
		t.Error("a capture that failed is ended once more")
	}
	b.must(Retry{Boot: id})
	b.in(id+1, Starting)
	b.refused(RemoveImage{Ref: Ref{"deb", 1}}, ErrBusy, "stack")
}

func TestCaptureRefused(t *testing.T) {
	b := newBench(t)
	b.flashed("vm", "deb", 1)
	b.refused(QueueCapture{Machine: "no", Image: "deb"}, ErrNotFound, "vm")
	b.refused(QueueCapture{Machine: "vm", Image: "../x"}, ErrInvalid)
	b.refused(QueueCapture{Machine: "vm", Image: "deb", Kind: "user"}, ErrRefused, "kind system")
	b.refused(QueueCapture{Machine: "vm", Image: "deb", Form: FormTree}, ErrRefused, "form disk")
	b.refused(QueueCapture{Machine: "vm", Image: "deb", Base: 9}, ErrNotFound, "deb@9")
	b.refused(QueueCapture{Machine: "vm", Image: "deb", Disk: "S9"}, ErrNotFound)
	b.refused(QueueCapture{Machine: "vm", Image: "fresh", Form: "odd"}, ErrInvalid)
	tree := b.capture(QueueCapture{Image: "mine", Form: FormTree, Kind: "project"})
	if p := b.boot(tree).Plan; p.Form != FormTree || p.Capture.Kind != "project" {
		t.Errorf("%+v", p)
	}
	other := b.capture(QueueCapture{Image: "mine-too"})
	if p := b.boot(other).Plan; p.Form != FormDisk || p.Capture.Kind != "system" {
		t.Errorf("%+v", p)
	}
	b.refused(MoveBoot{Boot: other, Machine: "metal"}, ErrRefused, "vm")
}

func TestCaptureDisk(t *testing.T) {
	one, two := DiskID{Serial: "S1", Bytes: GiB}, DiskID{Serial: "S2", Bytes: GiB}
	disks := func(all ...Disk) []Disk { return all }
	at := newBench(t).clock
	for _, c := range []struct {
		what  string
		disks []Disk
		holds []Holding
		want  DiskID // asked for
		is    DiskID
		words string
	}{
		{what: "the only one", disks: disks(Disk{DiskID: one}), is: one},
		{what: "a stick beside it", disks: disks(Disk{DiskID: two, Removable: true}, Disk{DiskID: one}), is: one},
		{what: "none", words: "no disk"},
		{what: "two", disks: disks(Disk{DiskID: one}, Disk{DiskID: two}), words: "--disk SERIAL names one; it has S1 (1.1 GB), S2"},
		{what: "two, one was written", disks: disks(Disk{DiskID: one}, Disk{DiskID: two}), holds: []Holding{{DiskID: two, At: at}}, is: two},
		{what: "both were written", disks: disks(Disk{DiskID: one}, Disk{DiskID: two}), holds: []Holding{{DiskID: two, At: at.Add(1)}, {DiskID: one, At: at}}, is: two},
		{what: "what was written is gone", disks: disks(Disk{DiskID: one}), holds: []Holding{{DiskID: two, At: at}}, words: "S2 (1.1 GB) is not there"},
		{what: "one was asked for", disks: disks(Disk{DiskID: one}, Disk{DiskID: two}), holds: []Holding{{DiskID: two, At: at}}, want: one, is: one},
		{what: "what was asked for is gone", disks: disks(Disk{DiskID: one}), want: two, words: "S2 (1.1 GB) is not there"},
		{what: "no name", disks: disks(Disk{Path: "/dev/sda"}), words: "neither serial number nor WWN"},
		{what: "two of one name", disks: disks(Disk{DiskID: one, Path: "/dev/sda"}, Disk{DiskID: one, Path: "/dev/sdb"}), want: one, words: "both S1"},
		{what: "half written", disks: disks(Disk{DiskID: one}), holds: []Holding{{DiskID: one, Ref: Ref{"deb", 1}, Dirty: true, At: at}}, words: "a mixture; boot deb@1 first"},
	} {
		m := Machine{Name: "m", Holds: c.holds}
		d, err := m.source(c.disks, PlanCapture{Image: "deb", Disk: c.want})
		if c.words != "" {
			wantError(t, c.what, err, ErrRefused, c.words)
		} else if err != nil || d.DiskID != c.is {
			t.Errorf("%s: %v, %v", c.what, d, err)
		}
	}
}
