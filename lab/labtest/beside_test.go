package labtest_test

import (
	"io"
	"os"
	"strings"
	"testing"

	"carte/lab"
	"carte/lab/ext4"
	"carte/lab/labtest"
	"carte/netboot"
)

// One machine runs a system of several layers, then a whole disk, then a kernel in memory, then the layers again. Each takes the
// place of the one before; the machine image at the end of the disk outlives them all, and what was there before comes from it.
func TestBeside(t *testing.T) {
	t.Parallel()
	labtest.QEMU(t)
	p := labtest.RealPayload(t)
	b := labtest.New(t, netboot.Config{Payload: p})
	vms := labtest.NewVMs(t, b)
	c := compose(t, b, strings.NewReplacer("JUNK", "1", "MORE", ":").Replace(composeInit))
	whole := labtest.Import(t, b, "whole", lab.FormDisk, partitioned(t, 32<<20))
	load(t, b, liveSystem(t, p), lab.Import{Name: "live", Kind: "system", Form: lab.FormKernel})
	labtest.Say(t, b, lab.PutStack{Stack: c.stack},
		lab.PutStack{Stack: lab.Stack{Name: "disk", Layers: []lab.Ref{whole.Ref()}, Until: lab.RungHandover}},
		lab.PutStack{Stack: lab.Stack{Name: "live", Layers: []lab.Ref{{Name: "live"}}, Cmdline: "console=ttyS0"}})
	m := labtest.Say(t, b, lab.AddMachine{Name: "vm", Virtual: &lab.Virtual{DiskBytes: 4 << 30}}).Machines[0]

	first := c.run(t, b, vms, m)
	if first.Moved.Fetched == 0 {
		t.Error("nothing was fetched onto a blank disk")
	}
	if x := labtest.Over(t, b, labtest.Boot(t, b, "disk", "vm")); x.State != lab.Done {
		t.Fatalf("the whole disk is %s: %s", x.State, x.Reason)
	}
	off(t, b, m)
	if err := labtest.Holds(t, b, vms.Disk(m), whole); err != nil {
		t.Error(err)
	}
	runsIn(t, b, vms, "live", m, "Run /init as init process")
	if again := c.run(t, b, vms, m); again.Moved.Fetched != 0 || again.Moved.Reused == 0 {
		t.Errorf("what the machine had before was laid again by moving %s", again.Moved.Words())
	}

	lines := notesOn(t, vms.Disk(m), 4<<30)
	if len(lines) != 3 || !strings.Contains(lines[0], "boot 1, stack composed") || !strings.Contains(lines[1], "boot 2, stack disk") || !strings.Contains(lines[2], "boot 4, stack composed") {
		t.Errorf("the machine's notes are:\n%s", strings.Join(lines, "\n"))
	}
}

// notesOn are the lines that boots have left in the machine image of a disk.
func notesOn(t testing.TB, disk string, size int64) []string {
	t.Helper()
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	at, n := lab.TailOf(size, lab.TailDefault).Machine()
	fs, err := ext4.Open(io.NewSectionReader(f, at, n), n)
	if err != nil {
		t.Fatal(err)
	}
	notes, err := fs.ReadFile("/boots.log", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(notes)), "\n")
}
