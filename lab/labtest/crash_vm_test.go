package labtest_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"carte/lab"
	"carte/lab/labtest"
	"carte/netboot/payload"
	"carte/store"
	"carte/store/media"
)

// A virtual machine dies with the server that runs it, whatever its boot is doing, and the server that comes after boots
// it anew: to the end, without a strike, and with no QEMU left over.
func TestServerKilledUnderQEMU(t *testing.T) {
	t.Parallel()
	labtest.QEMU(t)
	labtest.RealPayload(t)
	s := labtest.Serve(t)
	v := demo(t, s)
	m := labtest.Say(t, s, lab.AddMachine{Name: "vm-1", Virtual: &lab.Virtual{DiskBytes: 256 << 20}}).Machines[0]
	id, next := labtest.Boot(t, s, "demo", "vm-1"), labtest.Boot(t, s, "demo", "vm-1")
	for attempt, rung := range []lab.Rung{lab.RungKernel, lab.RungWrite} {
		now := labtest.UntilIn(t, s, labtest.Long, "rung "+string(rung), func(s lab.Snapshot) bool {
			return s.Boots[id].Rung().Reached(rung)
		})
		t.Logf("killed at attempt %d on the rung %s", now.Boots[id].Attempt, now.Boots[id].Rung())
		if b := now.Boots[id]; b.Attempt != attempt+1 || b.State.Final() {
			t.Fatalf("boot %d is %s at attempt %d: %s", id, b.State, b.Attempt, b.Reason)
		}
		qemu := childrenOf(t, s)
		s.Kill9(t)
		s.Start(t)
		qemu.gone(t)
		if b := labtest.Now(t, s).Boots[next]; b.State != lab.Queued {
			t.Errorf("the boot that waits is %s", b.State)
		}
	}
	now := labtest.UntilIn(t, s, labtest.Long, "the end of the boot", func(s lab.Snapshot) bool {
		return s.Boots[id].State.Final() && s.Boots[next].State != lab.Queued
	})
	b := now.Boots[id]
	if b.State != lab.Done || b.Attempt != 3 || b.Strikes != 0 || len(b.Metrics) == 0 {
		t.Errorf("the boot is %s at attempt %d with %d strikes and %d numbers: %s", b.State, b.Attempt, b.Strikes, len(b.Metrics), b.Reason)
	}
	t.Logf("the last attempt moved %+v", b.Moved)
	if holds := now.Machines[m.ID].Holds; len(holds) != 1 || holds[0].Dirty || holds[0].Root != b.Plan.Layers[0].Root {
		t.Errorf("the lab believes that the disk holds %+v", holds)
	}
	labtest.UntilIn(t, s, labtest.Long, "the next boot", func(s lab.Snapshot) bool {
		return s.Boots[next].Rung().Reached(lab.RungScript)
	})
	qemu, last := childrenOf(t, s), labtest.Now(t, s)
	s.Stop(t)
	qemu.gone(t)
	whole(t, s.Dir, last)
	state, err := store.Open(t.Context(), s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer state.Close()
	disk := filepath.Join(s.Dir, "vm", strconv.FormatInt(m.ID, 10), "disk.raw")
	if err := labtest.HoldsAt(t, state.Chunks, disk, lab.TreeOffset, v); err != nil {
		t.Error(err)
	}
}

// demo imports carte's own system, as carte demo does.
func demo(t *testing.T, d lab.Desk) lab.Version {
	t.Helper()
	files, err := payload.Payload{}.DemoTree()
	if err != nil {
		labtest.Lacking(t, err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "demo"))
	if err == nil {
		err = media.Tree(t.Context(), bytes.NewReader(files), f, media.TreeOptions{Label: "carte-demo", UUID: [16]byte{1}})
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	im, err := d.Import(t.Context(), io.NewSectionReader(f, 0, 1<<40), lab.Import{Name: "demo", Kind: "system", Form: lab.FormTree}, nil)
	if err != nil {
		t.Fatal(err)
	}
	labtest.Say(t, d, lab.PutStack{Stack: lab.Stack{Name: "demo", Layers: []lab.Ref{{Name: "demo"}}}})
	return im.Version
}

// children are processes by their pidfd (pidfd_open(2)), which goes on to mean them when their numbers are given to
// others, and can be read from when they are gone.
type children []unix.PollFd

func childrenOf(t *testing.T, s *labtest.Served) (all children) {
	t.Helper()
	for _, pid := range s.Children(t) {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			t.Fatalf("process %d: %v", pid, err)
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		all = append(all, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	if len(all) == 0 {
		t.Error("the server runs no QEMU")
	}
	return all
}

// gone waits until none of them lives.
func (c children) gone(t *testing.T) {
	t.Helper()
	for i := range c {
		for {
			n, err := unix.Poll(c[i:i+1], int(labtest.Patience.Milliseconds()))
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if n != 1 || err != nil {
				t.Errorf("a QEMU outlived the server that was killed (%v)", err)
			}
			break
		}
	}
}
