package agent

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"carte/lab"
	"carte/lab/chunk"
	"carte/lab/layout"
)

// gptDisk is a disk with one partition of so many bytes.
func gptDisk(t *testing.T, disk, part int64) []byte {
	t.Helper()
	b := make([]byte, disk)
	head, at, backup, err := layout.Make(disk, 512, [16]byte{1}, layout.Entry{Off: mebi, Bytes: part, Type: layout.LinuxData, UUID: [16]byte{2}, Name: "root"})
	if err != nil {
		t.Fatal(err)
	}
	copy(b, head)
	copy(b[at:], backup)
	copy(b[mebi:], []byte("content"))
	return b
}

// What of a disk is the image: never less than its tables need, and as much as its base where that fits.
func TestWholeDisk(t *testing.T) {
	noise := make([]byte, 8*mebi)
	rand.NewChaCha8([32]byte{3}).Read(noise)
	mbr := make([]byte, 8*mebi)
	copy(mbr[446:], []byte{0, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 16, 0, 0}) // from 1 MiB, 2 MiB long
	mbr[510], mbr[511] = 0x55, 0xaa
	broken := gptDisk(t, 8*mebi, 2*mebi)
	copy(broken[512:], make([]byte, 512))
	for _, c := range []struct {
		what string
		disk []byte
		base int64
		head []byte
		end  int64
		want int64
		why  string
	}{
		{"a GPT", gptDisk(t, 8*mebi, 2*mebi), 0, nil, 8 * mebi, 4 * mebi, "as its partition table says"},
		{"a GPT on its base", gptDisk(t, 8*mebi, 2*mebi), 5 * mebi, nil, 8 * mebi, 5 * mebi, "as its partition table says"},
		{"a GPT that has grown", gptDisk(t, 8*mebi, 4*mebi), 4 * mebi, nil, 8 * mebi, 6 * mebi, "as its partition table says"},
		{"a GPT that takes all", gptDisk(t, 8*mebi, 6*mebi), 4 * mebi, nil, 8 * mebi, 8 * mebi, "as its partition table says"},
		{"a damaged GPT", broken, 4 * mebi, nil, 8 * mebi, 8 * mebi, "all 8.4 MB: the partition table is damaged"},
		{"an MBR", mbr, 0, nil, 8 * mebi, 3 * mebi, "as its partition table says"},
		{"an MBR on its base", mbr, 4 * mebi, nil, 8 * mebi, 4 * mebi, ""},
		{"nothing known", noise, 0, nil, 8 * mebi, 8 * mebi, "all 8.4 MB: nothing says how far"},
		{"nothing known, and carte's own end", noise, 0, nil, 6 * mebi, 6 * mebi, "all 6.3 MB"},
		{"nothing known, as its base", noise, 2 * mebi, noise[:chunk.Size], 8 * mebi, 2 * mebi, "as much as its base has"},
		{"nothing known, on a GPT", noise, 2 * mebi, gptDisk(t, 8*mebi, 2*mebi)[:chunk.Size], 8 * mebi, 8 * mebi, "nothing says"},
	} {
		e, why, err := wholeDisk(newRAMDisk(c.disk), c.base, func() ([]byte, error) { return c.head, nil }, c.end)
		if err != nil || e.size != c.want || !strings.Contains(why, c.why) {
			t.Errorf("%s: %+v, %q, %v; want %d bytes, %q", c.what, e, why, err, c.want, c.why)
		}
	}
}

// A disk whose table was fitted to it is, without that, the image to the byte.
func TestExtractRestores(t *testing.T) {
	image := gptDisk(t, 4*mebi, 2*mebi)
	disk := make([]byte, 16*mebi)
	copy(disk, image)
	head, at, backup, ok, err := layout.Amend(image[:chunk.Size], 512, 16*mebi, 12*mebi)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	copy(disk, head)
	copy(disk[at:], backup)
	e, _, err := wholeDisk(newRAMDisk(disk), 4*mebi, nil, 12*mebi)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(io.NewSectionReader(e, 0, e.Size()))
	if err != nil || !bytes.Equal(got, image) {
		t.Errorf("%d of %d bytes, %v", len(got), len(image), err)
	}
	for range 200 { // any piece
		off := rand.Int64N(int64(len(image)))
		b := make([]byte, rand.IntN(mebi))
		n, err := e.ReadAt(b, off)
		if want := image[off:min(off+int64(len(b)), int64(len(image)))]; !bytes.Equal(b[:n], want) || (n < len(b)) != errors.Is(err, io.EOF) {
			t.Fatalf("%d bytes at %d: %d, %v", len(b), off, n, err)
		}
	}
}

func TestTreePart(t *testing.T) {
	id := lab.DiskID{Serial: "S", Bytes: 8 * mebi}
	disk, w := make([]byte, id.Bytes), lab.Write{Offset: lab.TreeOffset, Bytes: 2*mebi + 100}
	tables, err := treeTables(id, 512, lab.Region{}, w)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range tables {
		copy(disk[x.off:], x.data)
	}
	for base, want := range map[int64]int64{0: 2*mebi + 512, w.Bytes: w.Bytes, mebi: 2*mebi + 512} {
		e, _, err := treePart(newRAMDisk(disk), lab.Write{Offset: lab.TreeOffset, Bytes: base})
		if err != nil || e.off != lab.TreeOffset || e.size != want {
			t.Errorf("base %d: %+v, %v; want %d", base, e, err, want)
		}
	}
	if _, _, err := treePart(newRAMDisk(gptDisk(t, 8*mebi, mebi)), w); !errors.Is(err, lab.ErrRefused) {
		t.Errorf("a disk without a tree: %v", err)
	}
}

// Where a file has holes, an extract has, too; but what is put back is data.
func TestExtractData(t *testing.T) {
	file := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(file)
	if err == nil {
		_, err = f.WriteAt([]byte("x"), 6*mebi)
	}
	if err == nil {
		err = errors.Join(f.Truncate(16*mebi), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	d, err := ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.WriteAt([]byte("y"), 0); err == nil {
		t.Error("a disk that is open for reading was written")
	}
	e := &extract{Disk: d, off: mebi, size: 8 * mebi, put: []patch{{0, make([]byte, 512)}, {7*mebi + 512, make([]byte, 512)}}}
	covered := map[int64]bool{}
	for at := int64(0); at < e.size; {
		start, end := e.Data(at)
		if start < at || end < start || start < e.size && end == start {
			t.Fatalf("data at %d is %d to %d", at, start, end)
		}
		for x := start / 512; x*512 < end; x++ {
			covered[x] = true
		}
		at = max(end, start)
	}
	if !covered[0] || !covered[5*mebi/512] || !covered[(7*mebi+512)/512] || covered[3*mebi/512] {
		t.Errorf("%d blocks hold something", len(covered))
	}
}

func TestBatched(t *testing.T) {
	var b batched
	var ids []chunk.ID
	for i := range 5 {
		id := chunk.ID{byte(i + 1)}
		ids = append(ids, id)
		if err := b.add(id, bytes.Repeat([]byte{byte(i)}, 10*(i+1))); err != nil {
			t.Fatal(err)
		}
	}
	for _, left := range [][]chunk.ID{{ids[0], ids[2], ids[4]}, {ids[2], ids[4]}, {ids[4]}, {}} {
		b.only(left)
		r := bytes.NewReader(b.body.Bytes())
		for _, want := range left {
			id, stored, err := chunk.ReadFrame(r, nil)
			if err != nil || id != want || len(stored) != 10*int(want[0]) || stored[0] != want[0]-1 {
				t.Fatalf("%v: %v, %v, %v", want, id, stored, err)
			}
		}
		if r.Len() != 0 || len(b.ids) != len(left) {
			t.Errorf("%d bytes and %d ids are left", r.Len(), len(b.ids))
		}
	}
}
