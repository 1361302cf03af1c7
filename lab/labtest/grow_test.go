package labtest_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"carte/lab"
	"carte/lab/labtest"
	"carte/lab/layout"
	"carte/netboot"
)

// An agent in a virtual machine lays a small image onto a large disk: its last partition and file system take the room, up
// to carte's own end of the disk, where the machine image is mounted and given back. When the guest has changed the disk,
// all that is laid again comes from that end.
func TestTailAndGrow(t *testing.T) {
	t.Parallel()
	labtest.QEMU(t)
	p := labtest.RealPayload(t)
	b := labtest.New(t, netboot.Config{Payload: p})
	vms := labtest.NewVMs(t, b)
	v := labtest.Import(t, b, "data", lab.FormDisk, partitioned(t, 32<<20))
	labtest.Say(t, b, lab.PutStack{Stack: lab.Stack{Name: "grown", Layers: []lab.Ref{{Name: "data"}}, Until: lab.RungHandover, Grow: true}})
	m := labtest.Say(t, b, lab.AddMachine{Name: "vm", Virtual: &lab.Virtual{DiskBytes: 2 << 30}}).Machines[0]
	disk, tail := vms.Disk(m), lab.TailOf(2<<30, lab.TailDefault)

	first := labtest.Over(t, b, labtest.Boot(t, b, "grown", "vm"))
	off(t, b, m)
	if first.State != lab.Done || first.Moved.Fetched == 0 {
		t.Fatalf("boot %s: %s; %+v", first.State, first.Reason, first.Moved)
	}
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	grown, err := layout.Read(t.Context(), f, 2<<30)
	if err != nil || len(grown.Systems) != 1 {
		t.Fatal(grown, err)
	}
	fs := grown.Systems[0]
	if end := fs.Off + fs.Bytes; end > tail.Offset || end < tail.Offset-(2<<20) {
		t.Errorf("the file system ends at %d, carte's end of the disk begins at %d", end, tail.Offset)
	}
	part := filepath.Join(t.TempDir(), "part")
	for _, args := range [][]string{
		{"dd", "if=" + disk, "of=" + part, "bs=1M", "skip=1", "conv=sparse", "status=none"},
		{"e2fsck", "-fn", part},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
	lines, _, _, err := b.Tail(t.Context(), lab.Tail{Machine: m.ID})
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	for _, l := range lines {
		if strings.Contains(l.Text, "machine image") || strings.Contains(l.Text, "has grown") || strings.Contains(l.Text, "a tail of") {
			said = append(said, l.Text)
		}
	}
	t.Log(strings.Join(said, "\n"))
	if !strings.Contains(strings.Join(said, "\n"), "the machine image was mounted in") {
		t.Error("nothing was said about the machine image")
	}

	if _, err := f.WriteAt(bytes.Repeat([]byte("guest"), 1<<18), fs.Off+4<<20); err != nil {
		t.Fatal(err)
	}
	second := labtest.Over(t, b, labtest.Boot(t, b, "grown", "vm"))
	off(t, b, m)
	if second.State != lab.Done || second.Moved.Fetched != 0 || second.Moved.Reused == 0 {
		t.Errorf("boot %s: %s; what the guest had changed was laid again by moving %+v", second.State, second.Reason, second.Moved)
	}
	t.Logf("%s; then %s; %s", first.Moved.Words(), second.Moved.Words(), v.Found)
}

// off switches a machine off and waits until it is.
func off(t testing.TB, b *labtest.Bench, m lab.Machine) {
	t.Helper()
	labtest.Say(t, b, lab.PowerMachine{Machine: m.Name, Want: "off"})
	labtest.Until(t, b, "power off", func(s lab.Snapshot) bool { return s.Live[m.ID].Power == "off" })
}

// partitioned is a disk with a GPT and one partition, an ext4 with a file of noise in it.
func partitioned(t *testing.T, size int64) []byte {
	t.Helper()
	dir := t.TempDir()
	src, fs := filepath.Join(dir, "src"), filepath.Join(dir, "fs")
	if err := os.MkdirAll(src, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(src, "noise"), labtest.Image(16<<20, 7), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(fs, make([]byte, size-2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mke2fs", "-q", "-t", "ext4", "-d", src, fs).CombinedOutput(); err != nil {
		labtest.Lacking(t, string(out)+err.Error())
	}
	head, at, backup, err := layout.Make(size, 512, [16]byte{1}, layout.Entry{Off: 1 << 20, Bytes: size - 2<<20, Type: layout.LinuxData, UUID: [16]byte{2}, Name: "data"})
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(fs)
	if err != nil {
		t.Fatal(err)
	}
	image := make([]byte, size)
	copy(image[1<<20:], b)
	copy(image, head)
	copy(image[at:], backup)
	return image
}
