package agent

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"carte/lab"
	"carte/lab/chunk"
	"carte/lab/layout"
)

const mib = 1 << 20

// gptImage is a disk of so many bytes with two partitions; the second ends where only the table's copy follows.
func gptImage(t *testing.T, size int64, seed uint64) []byte {
	t.Helper()
	image := make([]byte, size)
	head, at, backup, err := layout.Make(size, 512, [16]byte{1, 2, 3},
		layout.Entry{Off: mib, Bytes: mib, Type: layout.LinuxData, UUID: [16]byte{4}, Name: "boot"},
		layout.Entry{Off: 2 * mib, Bytes: size - 3*mib, Type: layout.LinuxData, UUID: [16]byte{5}, Name: "root"})
	if err != nil {
		t.Fatal(err)
	}
	copy(image[mib:], noise(seed, 3*c))
	copy(image[2*mib:], noise(seed+100, 5*c))
	copy(image, head)
	copy(image[at:], backup)
	return image
}

// large makes the machine's disk larger, with a tail of 128 MiB.
func (m *machine) large(size int64) lab.DiskTail {
	if err := os.Truncate(m.path, size); err != nil {
		m.t.Fatal(err)
	}
	m.id.Bytes = size
	m.s.orders.Disk, m.s.orders.Tail = m.id, lab.TailOf(size, lab.TailLeast)
	if m.s.orders.Tail.None() {
		m.t.Fatal("the disk has no tail")
	}
	return m.s.orders.Tail
}

// part reads some of the disk.
func (m *machine) part(off, n int64) []byte {
	f, err := os.Open(m.path)
	if err != nil {
		m.t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, n)
	if _, err := f.ReadAt(b, off); err != nil && err != io.EOF {
		m.t.Fatal(err)
	}
	return b
}

// scribble writes over some of the disk, as a guest does.
func (m *machine) scribble(off int64, b []byte) {
	f, err := os.OpenFile(m.path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(b, off)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

// moved is what the last run moved.
func (m *machine) moved() lab.Moved {
	r, ok := m.s.last(func(r lab.Report) bool { return r.Rung == lab.RungHandover })
	if !ok {
		m.t.Fatal("there was no handover")
	}
	return r.Moved
}

// A disk that is larger than its image: the table fits the disk, gives nothing of the tail away, and the tail saves the wire.
func TestFlashBesideTheTail(t *testing.T) {
	s := newServer(t, nil)
	one, two := gptImage(t, 8*mib, 1), gptImage(t, 8*mib, 2)
	m := newMachine(t, s, nil, s.add(one), len(one))
	tail := m.large(200 * mib)
	flash := func(image []byte) lab.Moved {
		t.Helper()
		s.orders.Writes[0].Root = s.add(image)
		if err := m.run(); err != nil {
			t.Fatal(err)
		}
		head, at, backup, ok, err := layout.Guard(image[:c], 512, m.id.Bytes, tail.Offset, guid("tail", m.id))
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		if !bytes.Equal(m.part(0, 8*mib), joined(head, image[c:])) || !bytes.Equal(m.part(at, int64(len(backup))), backup) {
			t.Error("the disk is not the image with its table fitted to the disk")
		}
		return m.moved()
	}
	flash(one)
	table, err := layout.ReadTable(bytes.NewReader(m.part(0, m.id.Bytes)), m.id.Bytes)
	if err != nil || len(table.Parts) != 3 || table.Parts[2].Off != tail.Offset || table.Parts[2].Type != layout.TypeTail || table.Copy < tail.End() {
		t.Errorf("the tail is %d to %d, the table %+v: %v", tail.Offset, tail.End(), table, err)
	}
	if n := flash(one); n.Written+n.Zeroed+n.Fetched+n.Reused != 0 {
		t.Errorf("the same once more moved %+v", n)
	}
	m.scribble(0, noise(8, 3*c/2)) // the table, too
	m.scribble(2*mib+c, noise(9, 2*c))
	if n := flash(one); n.Fetched != 0 || n.Reused == 0 {
		t.Errorf("what a guest has changed came over the wire: %+v", n)
	}
	if n := flash(two); n.Fetched == 0 {
		t.Errorf("an image that was never here moved %+v", n)
	}
	if n := flash(one); n.Fetched != 0 {
		t.Errorf("the first image once more moved %+v", n)
	}
	off, n := tail.Cache()
	m.scribble(off+n/100, noise(10, 8*mib)) // one byte is as bad as all
	m.scribble(2*mib, make([]byte, 4*c))
	if n := flash(two); n.Fetched == 0 {
		t.Errorf("a cache that is noise gave chunks: %+v", n)
	}
	m.scribble(tail.Offset, noise(11, 3*mib))
	m.scribble(tail.Header(), noise(12, lab.TailHeader))
	flash(one)
}

// What does not fit before the tail is refused, and nothing is written.
func TestAmendRefuses(t *testing.T) {
	s := newServer(t, nil)
	image := gptImage(t, 100*mib, 1)
	m := newMachine(t, s, nil, s.add(image), len(image))
	m.large(200 * mib)
	err := m.run()
	if err == nil || !strings.Contains(err.Error(), "does not fit") || s.writing {
		t.Errorf("error %v, writing %v", err, s.writing)
	}
}

// Without a table nothing is amended, and an image as large as its disk stays as it is.
func TestAmendLeavesAlone(t *testing.T) {
	for name, image := range map[string][]byte{"no table": noise(1, 4*c), "as large as the disk": gptImage(t, 8*mib, 1)} {
		s := newServer(t, nil)
		m := newMachine(t, s, make([]byte, len(image)), s.add(image), len(image))
		if err := m.run(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(m.disk(), image) {
			t.Errorf("%s: the disk is not the image", name)
		}
	}
}

// The last partition takes the room of a larger disk; a second flash of the same moves the table alone, if anything.
func TestAmendGrows(t *testing.T) {
	s := newServer(t, nil)
	image := gptImage(t, 8*mib, 1)
	m := newMachine(t, s, nil, s.add(image), len(image))
	tail := m.large(200 * mib)
	s.orders.Grow = true
	for range 2 {
		if err := m.run(); err != nil {
			t.Fatal(err)
		}
		table, err := layout.ReadTable(bytes.NewReader(m.part(0, m.id.Bytes)), m.id.Bytes)
		if err != nil || len(table.Parts) != 3 {
			t.Fatalf("%+v, %v", table, err)
		}
		if p := table.Parts[1]; p.Off+p.Bytes > tail.Offset || p.Off+p.Bytes < tail.Offset-mib {
			t.Errorf("the last partition ends at %d, the tail begins at %d", p.Off+p.Bytes, tail.Offset)
		}
	}
	if n := m.moved(); n.Written+n.Zeroed+n.Fetched != 0 {
		t.Errorf("the same once more moved %+v", n)
	}
}

// A guest grows its last partition with the tools that guests have, and fills it: it ends before the tail, which stays as it
// was, and the next flash takes what the guest destroyed from there.
func TestTailOutlivesAGuestThatGrows(t *testing.T) {
	for _, tool := range [][]string{{"growpart", "DISK", "2"}, {"sfdisk", "--no-reread", "-N", "2", "DISK"}, {"sgdisk", "--delete=2", "--largest-new=2", "DISK"}, {"sgdisk", "--move-second-header", "--delete=2", "--largest-new=2", "DISK"}} {
		t.Run(strings.Join(tool[:2], " "), func(t *testing.T) {
			if _, err := exec.LookPath(tool[0]); err != nil {
				t.Skipf("%s is not installed", tool[0])
			}
			s := newServer(t, nil)
			image := gptImage(t, 8*mib, 1)
			m := newMachine(t, s, nil, s.add(image), len(image))
			tail := m.large(200 * mib)
			if err := m.run(); err != nil {
				t.Fatal(err)
			}
			before := chunk.Sum(m.part(tail.Offset, tail.Bytes))
			args := slices.Clone(tool)
			args[slices.Index(args, "DISK")] = m.path
			cmd := exec.Command(args[0], args[1:]...)
			cmd.Stdin = strings.NewReader(", +\n")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %v\n%s", args, err, out)
			}
			table, err := layout.ReadTable(bytes.NewReader(m.part(0, m.id.Bytes)), m.id.Bytes)
			if err != nil || len(table.Parts) != 3 {
				t.Fatal(table, err)
			}
			p := table.Parts[1]
			if end := p.Off + p.Bytes; end > tail.Offset || end < tail.Offset-2*mib {
				t.Fatalf("the partition ends at %d, the tail begins at %d", end, tail.Offset)
			}
			m.scribble(p.Off, noise(3, int(p.Bytes)))
			if chunk.Sum(m.part(tail.Offset, tail.Bytes)) != before {
				t.Fatal("the tail was changed")
			}
			if err := m.run(); err != nil {
				t.Fatal(err)
			}
			if n := m.moved(); n.Fetched != 0 || n.Reused == 0 {
				t.Errorf("what the guest destroyed came over the wire: %+v", n)
			}
		})
	}
}
