package labtest_test

import (
	"os"
	"strings"
	"testing"

	"carte/lab"
	"carte/lab/chunk"
	"carte/lab/labtest"
	"carte/lab/layout"
	"carte/netboot"
)

// disked puts bytes into a disk image with a partition table, in one partition of an unknown kind.
func disked(t *testing.T, bytes int, content []byte) []byte {
	t.Helper()
	b := make([]byte, bytes)
	head, at, backup, err := layout.Make(int64(bytes), 512, [16]byte{1}, layout.Entry{Off: 1 << 20, Bytes: int64(len(content)), Type: layout.LinuxData, UUID: [16]byte{2}})
	if err != nil {
		t.Fatal(err)
	}
	copy(b, head)
	copy(b[at:], backup)
	copy(b[1<<20:], content)
	return b
}

// captured captures a machine's disk and returns the boot when it is over.
func captured(t *testing.T, b lab.Desk, v lab.QueueCapture) lab.Boot {
	t.Helper()
	return labtest.Over(t, b, queueCapture(t, b, v))
}

func queueCapture(t *testing.T, b lab.Desk, v lab.QueueCapture) (id int64) {
	t.Helper()
	for _, x := range labtest.Say(t, b, v).Boots {
		id = max(id, x.ID)
	}
	return id
}

// change writes to a disk's file.
func change(t *testing.T, file string, off int64, data []byte) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err == nil {
		_, err = f.WriteAt(data, off)
	}
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

// storedIn is what the chunks of one version take in a store that another does not have.
func storedIn(t *testing.T, b *labtest.Bench, old, fresh chunk.ID) (n int64) {
	t.Helper()
	was, err := b.State.Chunks.Manifest(old)
	if err != nil {
		t.Fatal(err)
	}
	is, err := b.State.Chunks.Manifest(fresh)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range chunk.Diff(was, is) {
		n += b.State.Chunks.StoredBytes(is.IDs[i])
	}
	return n
}

// A disk that was flashed is captured: unchanged it is the version it was, changed it is the next one, of which only what
// changed was sent; and that one goes back onto a disk to the byte.
func TestCapture(t *testing.T) {
	b := labtest.New(t, netboot.Config{})
	v1 := labtest.Import(t, b, "deb", lab.FormDisk, disked(t, 24<<20, labtest.Image(20<<20, 1)))
	sim, name := labtest.Metal(t, b, 0, 300<<20), labtest.MetalName(0) // a tail fits behind it
	sim.Again = true
	labtest.On(t, sim)
	if x := labtest.Over(t, b, labtest.Boot(t, b, "deb", name)); x.State != lab.Done {
		t.Fatalf("boot: %s %s", x.State, x.Reason)
	}
	same := captured(t, b, lab.QueueCapture{Machine: name, Image: "deb"})
	if same.State != lab.Done || !same.Same || same.Captured != v1.Ref() || same.Moved.Sent != 0 || len(labtest.Now(t, b).VersionsOf("deb")) != 1 {
		t.Errorf("a disk that nobody changed: %s %s %+v", same.State, same.Reason, same.Moved)
	}
	if !strings.Contains(same.Reason, "deb@1 has these bytes already") || same.Rung() != lab.RungFetch || !strings.Contains(same.Chosen.Why, "24 MB") && !strings.Contains(same.Chosen.Why, "25.2 MB") {
		t.Errorf("it says %q on %q, and %q", same.Reason, same.Rung(), same.Chosen.Why)
	}

	change(t, sim.Disk.File, 5<<20+777, labtest.Image(500_000, 9))
	change(t, sim.Disk.File, 200<<20, []byte("behind the image: a stranger's"))
	x := captured(t, b, lab.QueueCapture{Machine: name, Image: "deb", Message: "kernel", Author: "ann"})
	s := labtest.Now(t, b)
	v2 := s.Versions["deb@2"]
	if x.State != lab.Done || x.Same || x.Captured != v2.Ref() || v2.Parent != 1 || v2.Bytes != v1.Bytes || v2.Message != "kernel" || v2.Author != "ann" || v2.At.IsZero() {
		t.Fatalf("boot is %s: %s; %+v", x.State, x.Reason, v2)
	}
	need := storedIn(t, b, v1.Root, v2.Root)
	if x.Moved.Sent == 0 || x.Moved.Sent > need*12/10 || x.Moved.Written+x.Moved.Zeroed != 0 || v2.Stored == 0 || v2.Stored > need*12/10 {
		t.Errorf("it moved %+v for changes of %d bytes; %+v", x.Moved, need, v2)
	}
	if got := s.Machines[x.Machine].Holds[0]; got.Root != v1.Root {
		t.Errorf("the machine holds %+v", got)
	}

	other := labtest.Metal(t, b, 1, 300<<20)
	other.Again = true
	labtest.On(t, other)
	labtest.Say(t, b, lab.PutStack{Stack: lab.Stack{Name: "one", Layers: []lab.Ref{v1.Ref()}}}, lab.PutStack{Stack: lab.Stack{Name: "two", Layers: []lab.Ref{v2.Ref()}}})
	labtest.Over(t, b, labtest.Boot(t, b, "one", labtest.MetalName(1)))
	two := labtest.Over(t, b, labtest.Boot(t, b, "two", labtest.MetalName(1)))
	if two.State != lab.Done || two.Moved.Fetched > need {
		t.Errorf("v2 over v1: %s %s %+v, the difference is %d bytes", two.State, two.Reason, two.Moved, need)
	}
	again := captured(t, b, lab.QueueCapture{Machine: labtest.MetalName(1), Image: "deb"})
	if !again.Same || again.Captured != v2.Ref() {
		t.Errorf("what was captured comes back as %s: %s", again.Captured, again.Reason)
	}
}
