package agent

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"carte/lab"
	"carte/lab/chunk"
)

func tailDisk(n int64) lab.DiskID { return lab.DiskID{Serial: "TAIL-1", WWN: "eui.1", Bytes: n} }

// outsideOf hashes all of a disk but its tail. Holes make it quick.
func outsideOf(t testing.TB, d Disk, tail lab.DiskTail) string {
	t.Helper()
	h := sha256.New()
	for _, r := range [][2]int64{{0, tail.Offset}, {tail.End(), d.Size()}} {
		for off := r[0]; off < r[1]; {
			start, end := d.(*device).Data(off)
			if start, end = max(start, off), min(end, r[1]); start >= end {
				break
			}
			fmt.Fprintln(h, start, end)
			if _, err := io.Copy(h, io.NewSectionReader(d, start, end-start)); err != nil {
				t.Fatal(err)
			}
			off = end
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// noisyDisk is a file with noise around the place of a tail, and a hole for the rest.
func noisyDisk(t testing.TB, n int64, tail lab.DiskTail) (Disk, string) {
	t.Helper()
	d, path := sparseDisk(t, n)
	before := min(tail.Offset, 3<<20)
	for _, at := range []int64{0, tail.Offset - before, tail.Offset, tail.End() - 1<<20} {
		if _, err := d.WriteAt(noise(uint64(at>>20), 1<<20), at); err != nil {
			t.Fatal(err)
		}
	}
	rest := noise(9, int(n-tail.End()))
	if _, err := d.WriteAt(rest, tail.End()); err != nil {
		t.Fatal(err)
	}
	return d, path
}

// fsckMachine has e2fsck look at the machine image.
func fsckMachine(t testing.TB, d Disk, tail lab.DiskTail) {
	t.Helper()
	path, err := exec.LookPath("e2fsck")
	if err != nil {
		path = "/sbin/e2fsck"
	}
	if _, err := os.Stat(path); err != nil {
		t.Skip("e2fsck is not installed (Debian: apt-get install e2fsprogs)")
	}
	off, n := tail.Machine()
	b := make([]byte, n)
	if _, err := d.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "machine.ext4")
	if err := os.WriteFile(copied, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(path, "-f", "-n", copied).CombinedOutput(); err != nil {
		t.Fatalf("e2fsck: %v\n%s", err, out)
	}
}

func mustTail(t testing.TB, d Disk, at lab.DiskTail, id lab.DiskID) *tail {
	t.Helper()
	got, err := openTail(d, at, id)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// A tail is made once and then kept with what is in it, on disks of many sizes; nothing around it changes.
func TestTail(t *testing.T) {
	const M, G = int64(1 << 20), int64(1 << 30)
	for _, tt := range []struct{ disk, setting int64 }{
		{1280 * M, lab.TailDefault}, {129 * M, 128 * M}, {130*M + 512, 128 * M}, {2000*M + 4096, lab.TailDefault},
		{4*G - 1, 1 * G}, {500 * G, lab.TailDefault}, {3000 * G, 100 * G},
	} {
		t.Run(fmt.Sprint(tt.disk), func(t *testing.T) {
			tail, id := lab.TailOf(tt.disk, tt.setting), tailDisk(tt.disk)
			d, _ := noisyDisk(t, tt.disk, tail)
			before := outsideOf(t, d, tail)
			first := mustTail(t, d, tail, id)
			if first.Made == "" {
				t.Error("noise was kept as a tail")
			}
			fsckMachine(t, d, tail)
			stored := noise(1, 100_000)
			name := chunk.Sum(stored)
			if err := errors.Join(first.cache.Put(name, stored), first.cache.Close()); err != nil {
				t.Fatal(err)
			}
			again := mustTail(t, d, tail, id)
			if got, err := again.cache.Get(name, nil); again.Made != "" || err != nil || !bytes.Equal(got, stored) {
				t.Errorf("opened again: made %q, %v", again.Made, err)
			}
			if outsideOf(t, d, tail) != before {
				t.Error("something outside the tail has changed")
			}
		})
	}
}

func TestTailOfAnother(t *testing.T) {
	const size = 300 << 20
	at := lab.TailOf(size, 130<<20)
	other := tailDisk(size)
	other.Serial = "TAIL-2"
	moved := lab.TailOf(size, 131<<20)
	for _, tt := range []struct {
		name, want string
		change     func(d Disk)
		tail       lab.DiskTail
		id         lab.DiskID
	}{
		{"same", "", nil, at, tailDisk(size)},
		{"other disk", "another disk's", nil, at, other},
		{"other size", "another place", nil, moved, tailDisk(size)},
		{"damaged", "damaged", func(d Disk) { d.WriteAt([]byte{1}, at.Header()+30) }, at, tailDisk(size)},
		{"behind the fields", "damaged", func(d Disk) { d.WriteAt([]byte{1}, at.Header()+3000) }, at, tailDisk(size)},
		{"overwritten", "something else", func(d Disk) { d.WriteAt(noise(1, 4096), at.Header()) }, at, tailDisk(size)},
		{"zeroed", "there was none", func(d Disk) { d.Zero(at.Header(), 4096) }, at, tailDisk(size)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, _ := noisyDisk(t, size, at)
			first := mustTail(t, d, at, tailDisk(size))
			if tt.change != nil {
				tt.change(d)
			}
			stored := noise(1, 1000)
			name := chunk.Sum(stored)
			if err := errors.Join(first.cache.Put(name, stored), first.cache.Close()); err != nil {
				t.Fatal(err)
			}
			got := mustTail(t, d, tt.tail, tt.id)
			if kept := tt.want == ""; kept != (got.Made == "") || !strings.Contains(got.Made, tt.want) || !strings.Contains(got.String(), tt.want) {
				t.Errorf("made anew: %q, want %q", got, tt.want)
			} else if got.cache.Has(name) != kept {
				t.Errorf("the cache has the chunk: %v", !kept)
			}
			fsckMachine(t, d, tt.tail)
			if again := mustTail(t, d, tt.tail, tt.id); again.Made != "" {
				t.Errorf("the second time: %q", again.Made)
			}
		})
	}
}

func TestTailRefuses(t *testing.T) {
	d, _ := sparseDisk(t, 200<<20)
	for _, bad := range []lab.DiskTail{
		{}, {Offset: 1 << 20, Bytes: 1 << 20}, {Offset: 100 << 20, Bytes: 128 << 20}, {Offset: -1 << 20, Bytes: 128 << 20},
		{Offset: 1 << 62, Bytes: 1 << 62},
	} {
		if _, err := openTail(d, bad, tailDisk(200<<20)); !errors.Is(err, lab.ErrInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// brittle fails every write from the n-th on.
type brittle struct {
	Disk
	left int
}

func (b *brittle) spend() error {
	if b.left--; b.left < 0 {
		return errDisk
	}
	return nil
}

func (b *brittle) WriteAt(p []byte, off int64) (int, error) {
	if err := b.spend(); err != nil {
		return 0, err
	}
	return b.Disk.WriteAt(p, off)
}

func (b *brittle) Zero(off, n int64) error { return errors.Join(b.spend(), b.Disk.Zero(off, n)) }
func (b *brittle) Sync() error             { return errors.Join(b.spend(), b.Disk.Sync()) }

// Cut off anywhere while it is made, a tail is made anew the next time, even where an older one lay.
func TestTailHalfMade(t *testing.T) {
	const size = 130 << 20
	at, id := lab.TailOf(size, 128<<20), tailDisk(size)
	other := id
	other.Serial = "older"
	steps := 0
	for ; ; steps++ {
		d, _ := sparseDisk(t, size)
		mustTail(t, d, at, other)
		_, err := openTail(&brittle{d, steps}, at, id)
		if err == nil {
			break
		}
		if !errors.Is(err, errDisk) {
			t.Fatal(err)
		}
		got := mustTail(t, d, at, id)
		// Only the last step, the sync of a page that is there, may be found done.
		if got.Made == "" {
			if _, err := openTail(&brittle{d, 0}, at, id); err != nil {
				t.Fatal(err)
			}
		}
		if steps%4 == 0 {
			fsckMachine(t, d, at)
		}
	}
	if steps < 8 {
		t.Errorf("made in %d steps", steps)
	}
}

// The same disk gives the same machine image, another disk another.
func TestMachineImageIsDeterministic(t *testing.T) {
	const size = 130 << 20
	at := lab.TailOf(size, 128<<20)
	image := func(id lab.DiskID) string {
		d, _ := noisyDisk(t, size, at)
		mustTail(t, d, at, id)
		off, n := at.Machine()
		h := sha256.New()
		if _, err := io.Copy(h, io.NewSectionReader(d, off, n)); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%x", h.Sum(nil))
	}
	other := tailDisk(size)
	other.WWN = "eui.2"
	a, b, c := image(tailDisk(size)), image(tailDisk(size)), image(other)
	if a != b || a == c {
		t.Errorf("images %.8s %.8s of one disk, %.8s of another", a, b, c)
	}
}
