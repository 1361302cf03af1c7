package labtest_test

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"carte/lab"
	"carte/lab/labtest"
	"carte/netboot"
)

const repairedInit = "#!/bin/sh\necho '::carte done'\nexec /bin/busybox poweroff -f\n"

// A machine whose base was damaged is repaired twice: at once with --reflash-base, and from the shell on its console. Either time the base is proven
// again, and not a byte of the user's image, nor of what lies behind it, has changed. The shell shows files, disks, file systems and boot entries.
func TestRepair(t *testing.T) {
	t.Parallel()
	labtest.QEMU(t)
	b := labtest.New(t, netboot.Config{Payload: labtest.RealPayload(t)})
	vms := labtest.NewVMs(t, b)
	c := compose(t, b, repairedInit)
	c.stack.Upper = lab.UpperDisk
	labtest.Say(t, b, lab.PutStack{Stack: c.stack})
	m := labtest.Say(t, b, lab.AddMachine{Name: "broken", Virtual: &lab.Virtual{DiskBytes: 3 << 30, Firmware: lab.UEFI}}).Machines[0]
	if _, err := b.Say(t.Context(), lab.QueueRepair{Machine: "broken", Base: true}); err == nil || !strings.Contains(err.Error(), "no tree") {
		t.Errorf("a base that nobody has laid: %v", err)
	}
	laid := c.run(t, b, vms, m)
	at, end := laid.Plan.Places()
	user := 0
	for i, l := range laid.Plan.Layers {
		if l.Ref.Name == "ann" {
			user = i
		}
	}
	spoil := func(off int64) {
		t.Helper()
		f, err := os.OpenFile(vms.Disk(m), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte("what somebody wrote here"), off); err != nil {
			t.Fatal(err)
		}
	}
	spoil(at[user] + 512<<10) // theirs, and none of carte's business
	spoil(end + 40<<20)
	rest := bytesFrom(t, vms.Disk(m), at[1], end+64<<20)
	proven := func() {
		t.Helper()
		if err := labtest.HoldsAt(t, b.State.Chunks, vms.Disk(m), at[0], c.versions[0]); err != nil {
			t.Errorf("the base: %v", err)
		}
		if !bytes.Equal(rest, bytesFrom(t, vms.Disk(m), at[1], end+64<<20)) {
			t.Error("something was written behind the base")
		}
	}

	spoil(at[0] + 4096*40)
	id := labtest.Say(t, b, lab.QueueRepair{Machine: "broken", Base: true}).Boots[0].ID
	x := labtest.UntilIn(t, b, labtest.Long, "the repair", func(s lab.Snapshot) bool { return s.Boots[id].State.Final() }).Boots[id]
	off(t, b, m)
	if x.State != lab.Done || x.Moved.Written == 0 || x.Moved.Written > 2<<20 {
		t.Errorf("the repair is %s: %s; it %s", x.State, x.Reason, x.Moved.Words())
	}
	proven()

	spoil(at[0] + 4096*41)
	mark := labtest.Mark(t, b)
	id = labtest.Say(t, b, lab.QueueRepair{Machine: "broken"}).Boots[0].ID
	mark = vms.Expect(t, m, mark, "carte-repair#")
	for _, step := range [][2]string{
		{"help", "reflash base"},
		{"ls /carte/machine", "boots.log"},
		{"cat /carte/machine/boots.log", "stack composed"},
		{"disks", "carte may write here"},
		{"fsck", "machine"},
		{"frobnicate", "no command here"},
		{"boot-entries", "1. "},
		{"boot-entries network-first", "written;"},
		{"reflash base", "is proven; nothing else"},
	} {
		if err := vms.Type(m, []byte(step[0]+"\n")); err != nil {
			t.Fatal(err)
		}
		mark = vms.Expect(t, m, mark, step[1])
	}
	if err := vms.Type(m, []byte("reboot\n")); err != nil {
		t.Fatal(err)
	}
	x = labtest.UntilIn(t, b, labtest.Long, "the end of the repair", func(s lab.Snapshot) bool { return s.Boots[id].State.Final() }).Boots[id]
	if x.State != lab.Done {
		t.Errorf("the repair is %s: %s", x.State, x.Reason)
	}
	off(t, b, m)
	proven()
	if h := labtest.Now(t, b).Machines[m.ID].Holds; len(h) != 1 || h[0].Dirty || len(h[0].Over) != len(at)-1 {
		t.Errorf("the machine holds %+v", h)
	}
}

// bytesFrom reads a part of a file.
func bytesFrom(t *testing.T, file string, from, to int64) []byte {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, to-from)
	if _, err := f.ReadAt(b, from); err != nil {
		t.Fatal(err)
	}
	return b
}
