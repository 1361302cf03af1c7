package labtest_test

import (
	"os"
	"path/filepath"
	"testing"

	"carte/lab"
	"carte/lab/labtest"
	"carte/netboot"
)

// The whole round under QEMU, with the real agent in every step: a version is flashed, its system changes the disk, the
// disk is captured as the next version, and that is flashed onto a second machine whose disk holds the first: only the
// difference moves each time. In place of a system that boots from the disk, which takes minutes here (TestDebian), the
// test mounts the machine's disk while the machine is off, writes and deletes files as that system would, and unmounts it.
func TestCaptureUnderQEMU(t *testing.T) {
	t.Parallel()
	labtest.QEMU(t)
	p := labtest.RealPayload(t)
	b := labtest.New(t, netboot.Config{Payload: p})
	vms := labtest.NewVMs(t, b)
	v1 := labtest.Import(t, b, "deb", lab.FormDisk, formatted(t, 96<<20))
	labtest.Say(t, b, lab.PutStack{Stack: lab.Stack{Name: "one", Layers: []lab.Ref{v1.Ref()}, Until: lab.RungHandover}})
	add := func(name string) lab.Machine {
		return labtest.Say(t, b, lab.AddMachine{Name: name, Virtual: &lab.Virtual{DiskBytes: 1 << 30}}).Machines[0]
	}
	m1, m2 := add("vm-1"), add("vm-2")
	over := func(id int64, m lab.Machine) lab.Boot {
		x := labtest.Over(t, b, id)
		off(t, b, m)
		if x.State != lab.Done {
			t.Fatalf("%s on %s is %s: %s", x.Plan.Stack, m.Name, x.State, x.Reason)
		}
		return x
	}
	first, second := labtest.Boot(t, b, "one", "vm-1"), labtest.Boot(t, b, "one", "vm-2")
	over(first, m1)
	onExt4(t, vms.Disk(m1), func(dir string) {
		for name, data := range map[string][]byte{"new": labtest.Image(3<<20, 8), "file-3": labtest.Image(200_000, 9)} {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Remove(filepath.Join(dir, "file-5")); err != nil {
			t.Fatal(err)
		}
	})
	x := over(queueCapture(t, b, lab.QueueCapture{Machine: "vm-1", Image: "deb", Message: "what the guest did", Author: "ann"}), m1)
	v2 := labtest.Now(t, b).Versions["deb@2"]
	if x.State != lab.Done || x.Captured != v2.Ref() || x.Strikes != 0 || v2.Parent != 1 || v2.Bytes != v1.Bytes || v2.Author != "ann" {
		t.Fatalf("the capture is %s: %s; %+v", x.State, x.Reason, v2)
	}
	need := storedIn(t, b, v1.Root, v2.Root)
	if x.Moved.Sent == 0 || x.Moved.Sent > need*12/10 || x.Moved.Written+x.Moved.Zeroed != 0 {
		t.Errorf("it moved %+v for changes of %d bytes", x.Moved, need)
	}
	t.Logf("%s: %s, %s; %s", x.Captured, x.MovedWords(), x.Chosen.Why, x.Reason)
	for _, c := range x.Climbed() {
		t.Logf("%s  %s", c.At.Format("15:04:05.0"), c.Rung)
	}

	over(second, m2)
	labtest.Say(t, b, lab.PutStack{Stack: lab.Stack{Name: "two", Layers: []lab.Ref{v2.Ref()}, Until: lab.RungHandover}})
	two := over(labtest.Boot(t, b, "two", "vm-2"), m2)
	if two.Moved.Fetched > need || two.Moved.Fetched == 0 {
		t.Errorf("v2 over v1 moved %+v, the difference is %d bytes", two.Moved, need)
	}
	t.Logf("v2 over v1: %s", two.MovedWords())
	if err := labtest.Holds(t, b, vms.Disk(m2), v2); err != nil {
		t.Error(err)
	}
}
