package lab

import (
	"fmt"
	"testing"

	"carte/lab/chunk"
)

func s1(bytes int64) Disk { return Disk{DiskID: DiskID{Serial: "S1", Bytes: bytes}, Path: "/dev/sda"} }

func TestGuard(t *testing.T) {
	plan := Plan{Stack: "deb", Form: FormDisk, Layers: []PlanLayer{{Bytes: GiB}}}
	tree := Plan{Stack: "tree", Form: FormTree, Layers: []PlanLayer{{Bytes: GiB}}}
	armed := func(a ...Arm) Machine { return Machine{Name: "m", Arms: a} }
	one := Arm{DiskID: DiskID{Serial: "S1", Bytes: GiB}}
	sure := Arm{DiskID: one.DiskID, Confirmed: true}
	ours := armed(one)
	ours.Holds = []Holding{{DiskID: one.DiskID, Root: chunk.ID{1}}}
	for _, c := range []struct {
		what  string
		m     Machine
		disks []Disk
		plan  Plan
		words []string // none: allowed
	}{
		{"the armed disk", armed(one), []Disk{s1(GiB)}, plan, nil},
		{"among others", armed(one), []Disk{{DiskID: DiskID{Serial: "S2", Bytes: GiB}}, s1(GiB)}, plan, nil},
		{"no disk armed", armed(), []Disk{s1(GiB)}, plan, []string{"no disk is armed", "carte machine arm m"}},
		{"wrong serial", armed(one), []Disk{{DiskID: DiskID{Serial: "S2", Bytes: GiB}}}, plan, []string{"S1", "not there", "S2"}},
		{"same serial, other size", armed(one), []Disk{s1(2 * GiB)}, plan, []string{"not there"}},
		{"same serial, other WWN", armed(one), []Disk{{DiskID: DiskID{Serial: "S1", WWN: "w", Bytes: GiB}}}, plan, []string{"not there"}},
		{"no disks", armed(one), nil, plan, []string{"not there"}},
		{"two that match", armed(one), []Disk{s1(GiB), {DiskID: one.DiskID, Path: "/dev/sdb"}}, plan, []string{"2 disks", "/dev/sda", "/dev/sdb"}},
		{"two armed, both there", armed(one, Arm{DiskID: DiskID{Serial: "S2", Bytes: GiB}}), []Disk{s1(GiB), {DiskID: DiskID{Serial: "S2", Bytes: GiB}}}, plan, []string{"2 disks"}},
		{"armed without a name", armed(Arm{DiskID: DiskID{Bytes: GiB}}), []Disk{{DiskID: DiskID{Bytes: GiB}}}, plan, []string{"not there"}},
		{"too small by 1 MB", armed(Arm{DiskID: DiskID{Serial: "S1", Bytes: GiB - 1e6}}), []Disk{s1(GiB - 1e6)}, plan, []string{"is 1.0 MB (1000000 bytes) too small for deb"}},
		{"too small by 1 byte", armed(Arm{DiskID: DiskID{Serial: "S1", Bytes: GiB - 1}}), []Disk{s1(GiB - 1)}, plan, []string{"1 B too small"}},
		{"a tree needs room for tables", armed(one), []Disk{s1(GiB)}, tree, []string{"2.1 MB (2097152 bytes) too small for tree"}},
		{"removable", armed(one), []Disk{{DiskID: one.DiskID, Removable: true}}, plan, []string{"removable"}},
		{"read-only", armed(one), []Disk{{DiskID: one.DiskID, ReadOnly: true}}, plan, []string{"write-protected"}},
		{"foreign", armed(one), []Disk{{DiskID: one.DiskID, Contents: "NTFS"}}, plan, []string{"did not write (NTFS)", "--confirm m"}},
		{"foreign, confirmed", armed(sure), []Disk{{DiskID: one.DiskID, Contents: "NTFS"}}, plan, nil},
		{"ours", ours, []Disk{{DiskID: one.DiskID, Contents: "ext4"}}, plan, nil},
	} {
		d, err := guard(c.m, c.disks, c.plan)
		if c.words == nil {
			if err != nil || d.Serial != "S1" {
				t.Errorf("%s: %v %v, want S1", c.what, d, err)
			}
			continue
		}
		wantError(t, c.what, err, ErrRefused, append(c.words, "nothing was written")...)
	}
}

func TestArm(t *testing.T) {
	b := newBench(t)
	b.must(AddMachine{Name: "new", MACs: []string{"52:54:00:00:00:03"}})
	b.refused(ArmDisk{Machine: "new", Disk: "S1"}, ErrRefused, "nobody has seen the disks of new")
	b.claim(b.script("52:54:00:00:00:03"), 9, func(i *Inventory) {
		i.Disks = []Disk{s1(GiB), {DiskID: DiskID{Serial: "S2", Bytes: GiB}, Path: "/dev/sdb", Contents: "NTFS"}, {DiskID: DiskID{Bytes: GiB}, Path: "/dev/sdc"},
			{DiskID: DiskID{Serial: "USB", Bytes: GiB}, Removable: true}, {DiskID: DiskID{Serial: "twin", Bytes: 1}, Path: "a"}, {DiskID: DiskID{Serial: "twin", Bytes: 2}, Path: "b"}}
	})
	b.refused(ArmDisk{Machine: "nobody", Disk: "S1"}, ErrNotFound, "metal")
	b.refused(ArmDisk{Machine: "new", Disk: "S9"}, ErrNotFound, "S1", "S2")
	b.refused(ArmDisk{Machine: "new", Disk: ""}, ErrNotFound)
	b.refused(ArmDisk{Machine: "new", Disk: "/dev/sdc"}, ErrRefused, "neither serial number nor WWN")
	b.refused(ArmDisk{Machine: "new", Disk: "USB"}, ErrRefused, "removable")
	b.refused(ArmDisk{Machine: "new", Disk: "twin"}, ErrRefused, "2 disks", "a and b")
	b.refused(ArmDisk{Machine: "new", Disk: "S2"}, ErrConfirm, "NTFS", "--confirm new")
	b.refused(ArmDisk{Machine: "new", Disk: "S2", Confirm: "metal"}, ErrConfirm)
	b.refused(Queue{Machine: "new", Stack: "deb"}, ErrRefused, "no disk of new may be written")
	b.must(ArmDisk{Machine: "new", Disk: "/dev/sdb", Confirm: "new"})
	if arms := b.machine("new").Arms; len(arms) != 1 || arms[0].Serial != "S2" || !arms[0].Confirmed {
		t.Errorf("armed: %+v", arms)
	}
	b.refused(ArmDisk{Machine: "new", Disk: "S1", Disarm: true}, ErrNotFound)
	b.must(ArmDisk{Machine: "new", Disk: "S2", Disarm: true})
	b.must(ArmDisk{Machine: "new", Disk: "S1"})
	b.must(AddVersion{Version: Version{Image: "big", Root: chunk.ID{3}, Bytes: GiB + 5000}, Kind: "system", Form: FormDisk})
	b.must(PutStack{Stack: Stack{Name: "big", Layers: []Ref{{Name: "big"}}}})
	b.refused(Queue{Machine: "new", Stack: "big"}, ErrRefused, "is 5.0 kB (5000 bytes) too small for big")
}

// What the guard finds out only at the machine ends the boot, tells the agent why, and leaves the disk alone.
func TestGuardAtTheMachine(t *testing.T) {
	b := newBench(t)
	for i, c := range []struct {
		change func(*Inventory)
		word   string
	}{
		{func(i *Inventory) { i.Disks = nil }, "not there"},
		{func(i *Inventory) { i.Disks[0].Serial = "other" }, "other"},
		{func(i *Inventory) { i.Disks = append(i.Disks, i.Disks[0]) }, "2 disks"},
		{func(i *Inventory) { i.Disks[0].Contents = "GPT with 3 partitions" }, "GPT with 3 partitions"},
		{func(i *Inventory) { i.Disks[0].Serial = "S1\x1b[2J" }, "not there"},
	} {
		id := b.queue("metal", "deb")
		o := b.claim(b.script(metalMAC), i, c.change)
		if o.Do != DoStop || len(o.Writes) > 0 {
			t.Errorf("%s: the agent is told to %s", c.word, o.Do)
		}
		b.in(id, Failed, c.word, "nothing was written")
		if _, err := b.Report(t.Context(), agentKey(i), Report{Boot: id}); err == nil {
			t.Errorf("%s: the agent may still speak", c.word)
		}
	}
	if m := b.machine("metal"); len(m.Holds) > 0 || m.Parked != "" {
		t.Errorf("%+v", m)
	}
}

// A dirty disk is remembered, and what was not proven is not started.
func TestHolding(t *testing.T) {
	b := newBench(t)
	id := b.queue("metal", "deb")
	b.take(id, Working, 1)
	b.report(1, Report{Boot: id, Rung: RungWrite, Writing: true})
	if h := b.machine("metal").Holds; len(h) != 1 || !h[0].Dirty || h[0].Ref != (Ref{"deb", 1}) {
		t.Errorf("after the first write: %+v", h)
	}
	_, err := b.Report(t.Context(), agentKey(1), Report{Boot: id, Rung: RungHandover})
	wantError(t, "handover of a dirty disk", err, ErrRefused, "not proven")
	b.in(id, Working)
	b.report(1, Report{Boot: id, Rung: RungVerify, Proven: true})
	if h := b.machine("metal").Holds; len(h) != 1 || h[0].Dirty {
		t.Errorf("after the proof: %+v", h)
	}
	b.report(1, Report{Boot: id, Rung: RungHandover})
	b.in(id, Handover)
}

func TestInventoryIsTidied(t *testing.T) {
	b := newBench(t)
	b.must(SetMachine{Machine: "metal", Values: map[string]string{"warm": "yes"}})
	b.claim(b.script(metalMAC), 1, func(i *Inventory) {
		i.CPU = "x\x1b[31m\xff"
		i.NICs = []NIC{{MAC: "52-54-00-00-00-0A"}, {MAC: "52:54:00:00:00:0a"}, {MAC: "rubbish"}, {MAC: vmMAC}, {MAC: metalMAC}}
	})
	m := b.machine("metal")
	if got, want := fmt.Sprint(m.MACs), "[52:54:00:00:00:02 52:54:00:00:00:0a]"; got != want {
		t.Errorf("cards %s, want %s", got, want)
	}
	if m.Inventory.CPU != "x\uFFFD" || len(m.Inventory.NICs) != 4 {
		t.Errorf("%+v", m.Inventory)
	}
}
