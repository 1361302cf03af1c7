package layout

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

const headLen = 256 << 10

// lay writes an image onto a larger disk as a flash does: the image, its amended head, the backup.
func lay(image, head []byte, disk, at int64, backup []byte) []byte {
	b := make([]byte, disk)
	copy(b, image)
	copy(b, head)
	copy(b[at:], backup)
	return b
}

func TestAmend(t *testing.T) {
	const image = 40 * mib
	for _, block := range []int64{512, 4096} {
		_, b := table(t, image, int(block), script(block))
		for _, c := range []struct{ disk, room int64 }{
			{64 * mib, 0}, {64*mib + 3, 0}, {64 * mib, 50 * mib}, {64 * mib, 64 * mib}, {image, 0}, {30 * mib, 0}, {64 * mib, 29 * mib}, {3 << 40, 60 * mib}, {3 << 40, 0},
		} {
			t.Run(fmt.Sprint(block, c), func(t *testing.T) {
				head, at, backup, ok, err := Amend(b[:headLen], int(block), c.disk, c.room)
				if err != nil || !ok || len(head) != headLen {
					t.Fatal(ok, err)
				}
				total := c.disk / block
				if at+int64(len(backup)) != total*block {
					t.Errorf("the backup of %d bytes lies at %d", len(backup), at)
				}
				want := readTable(t, b)
				want.Copy, want.Last = (total-1)*block, at
				if c.room > 0 {
					want.Last = min(at, c.room)
				}
				if got := readHead(t, head, c.disk, at, backup); fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("%+v\nwant %+v", got, want)
				}
				head2, backup2, at2, ok, err := Restore(head, int(block), image)
				if err != nil || !ok || !bytes.Equal(head2, b[:headLen]) {
					t.Errorf("Restore gives another head (%v, %v)", ok, err)
				}
				if at2+int64(len(backup2)) != image || !bytes.Equal(b[at2:], backup2) {
					t.Errorf("Restore gives another backup, at %d", at2)
				}
				if c.disk > 1<<30 {
					return
				}
				path := empty(t, 0)
				save(t, path, lay(b[:29*mib], head, c.disk, at, backup))
				if bad := verified(t, path, int(block)); bad != "" {
					t.Error(bad)
				}
				if out := call(t, "", "sgdisk", "-v", path); block == 512 && !strings.Contains(out, "No problems found") {
					t.Error(out)
				}
			})
		}
	}
}

// readHead reads the table of a disk of which only the head and the backup are there, and then with the head destroyed.
func readHead(t *testing.T, head []byte, disk, at int64, backup []byte) Table {
	t.Helper()
	d := pasted{{0, head}, {at, backup}}
	got, err := ReadTable(d, disk)
	if err != nil || got.Backup {
		t.Fatal(err, got.Note)
	}
	d[0].b = make([]byte, len(head))
	second, err := ReadTable(d, disk)
	if err != nil || !second.Backup || fmt.Sprint(second.Parts) != fmt.Sprint(got.Parts) || second.Last != got.Last {
		t.Errorf("the backup says %+v, %v", second, err)
	}
	return got
}

// pasted is a disk of zeros with something at a few places.
type pasted []struct {
	off int64
	b   []byte
}

func (d pasted) ReadAt(b []byte, off int64) (int, error) {
	clear(b)
	for _, x := range d {
		r := io.NewSectionReader(bytes.NewReader(x.b), max(0, off-x.off), int64(len(b)))
		if skip := max(0, x.off-off); skip < int64(len(b)) {
			if _, err := r.Read(b[skip:]); err != nil && err != io.EOF {
				return 0, err
			}
		}
	}
	return len(b), nil
}

// sgdisk -e moves the backup, too: all that it changes is what Amend changes.
func TestAmendIsWhatSgdiskDoes(t *testing.T) {
	const image, disk = 40 * mib, 64 * mib
	path, b := table(t, image, 512, script(512))
	call(t, "", "sgdisk", "-o", "-n", "1:2048:+8M", "-t", "1:ef00", "-n", "2:0:+20M", path)
	b = load(t, path)
	head, at, backup, ok, err := Amend(b[:headLen], 512, disk, 0)
	if !ok || err != nil {
		t.Fatal(err)
	}
	ours := lay(b[:30*mib], head, disk, at, backup)
	save(t, path, append(b[:30*mib:30*mib], make([]byte, disk-30*mib)...))
	call(t, "", "sgdisk", "-e", path)
	theirs := load(t, path)
	// It writes the place of the end in cylinders, heads and sectors anew; nobody reads that.
	copy(theirs[446+5:446+8], ours[446+5:446+8])
	if !bytes.Equal(ours, theirs) {
		for i := range ours {
			if ours[i] != theirs[i] {
				t.Fatalf("byte %d is %#x, and sgdisk makes %#x", i, ours[i], theirs[i])
			}
		}
	}
}

func TestAmendRefuses(t *testing.T) {
	_, b := table(t, 40*mib, 512, script(512))
	head := b[:headLen]
	for _, c := range []struct{ disk, room, short int64 }{
		{64 * mib, 29*mib - 1, 512}, {64 * mib, 20 * mib, 9 * mib}, {29 * mib, 0, 33 * 512}, {29*mib + 33*512 - 1, 0, 512}, {64 * mib, 1, 29 * mib}, {0, 0, 29*mib + 33*512},
	} {
		_, _, _, ok, err := Amend(head, 512, c.disk, c.room)
		var short *ShortError
		if ok || !errors.As(err, &short) || short.Short != c.short && c.disk > 0 || !strings.Contains(err.Error(), "partition 2") {
			t.Errorf("disk %d, room %d: %v, %v; want %d bytes short", c.disk, c.room, ok, err, c.short)
		}
	}
	if _, _, _, ok, err := Amend(head, 512, 29*mib+33*512, 0); !ok || err != nil {
		t.Errorf("what fits exactly: %v, %v", ok, err)
	}
	_, mbr := table(t, 40*mib, 512, "label: dos\nstart=2048,size=20480,type=83\n")
	for name, head := range map[string][]byte{"nothing": nil, "zeros": make([]byte, headLen), "MBR": mbr[:headLen], "other blocks": head} {
		block := 512
		if name == "other blocks" {
			block = 4096
		}
		if got, _, _, ok, err := Amend(head, block, 64*mib, 0); ok || err != nil || !bytes.Equal(got, head) {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
	}
	torn := bytes.Clone(head)
	torn[512+30]++
	if _, _, _, _, err := Amend(torn, 512, 64*mib, 0); !errors.Is(err, ErrDamaged) {
		t.Errorf("damaged header: %v", err)
	}
	torn = bytes.Clone(head)
	torn[1024+30]++
	if _, _, _, _, err := Amend(torn, 512, 64*mib, 0); !errors.Is(err, ErrDamaged) {
		t.Errorf("damaged entries: %v", err)
	}
	if _, _, _, _, err := Amend(head[:16<<10], 512, 64*mib, 0); !errors.Is(err, ErrUnable) {
		t.Errorf("entries outside: %v", err)
	}
}

func TestGrowLast(t *testing.T) {
	for _, block := range []int64{512, 4096} {
		_, b := table(t, 40*mib, int(block), script(block))
		for _, c := range []struct{ disk, room, end int64 }{{64 * mib, 0, 63 * mib}, {64 * mib, 50*mib + 5000, 50 * mib}, {29*mib + 200<<10, 0, 29 * mib}, {64 * mib, 29 * mib, 29 * mib}} {
			head, at, backup, part, err := GrowLast(b[:headLen], int(block), c.disk, c.room)
			if err != nil || part.Number != 2 || part.Off != 9*mib || part.Off+part.Bytes != c.end {
				t.Fatalf("block %d %v: %+v, %v", block, c, part, err)
			}
			got := readHead(t, head, c.disk, at, backup)
			if got.Parts[1] != part || got.Parts[0].Bytes != 8*mib {
				t.Errorf("block %d %v: %+v", block, c, got)
			}
			path := empty(t, 0)
			save(t, path, lay(b[:29*mib], head, c.disk, at, backup))
			if bad := verified(t, path, int(block)); bad != "" {
				t.Error(bad)
			}
		}
	}
	const plain = "label: dos\nstart=2048,size=2048,type=83\nstart=4096,size=4096,type=83\n"
	path, b := table(t, 8*mib, 512, plain)
	head, _, backup, part, err := GrowLast(b[:headLen], 512, 64*mib, 50*mib+1)
	if err != nil || len(backup) > 0 || part != (Partition{Number: 2, Off: 2 * mib, Bytes: 48 * mib, Type: "Linux"}) {
		t.Fatalf("MBR: %+v, %v", part, err)
	}
	save(t, path, lay(b, head, 64*mib, 0, nil))
	if got := readTable(t, load(t, path)); got.Parts[1] != part {
		t.Errorf("MBR: %+v", got)
	}
	if bad := verified(t, path, 512); bad != "" {
		t.Error(bad)
	}
	if _, _, _, part, err = GrowLast(b[:headLen], 512, 5<<40, 0); err != nil || part.Off+part.Bytes != 1<<41-mib {
		t.Errorf("MBR on a huge disk: %+v, %v", part, err)
	}
	_, b = table(t, 8*mib, 512, "label: dos\nstart=2048,size=2048,type=83\nstart=4096,size=4096,type=5\nstart=6144,size=2048,type=83\n")
	if _, _, _, _, err := GrowLast(b[:headLen], 512, 64*mib, 0); !errors.Is(err, ErrUnable) || !strings.Contains(err.Error(), "logical") {
		t.Errorf("logical: %v", err)
	}
	if _, _, _, _, err := GrowLast(make([]byte, headLen), 512, 64*mib, 0); !errors.Is(err, ErrUnable) {
		t.Errorf("no table: %v", err)
	}
	var short *ShortError
	if _, _, _, _, err := GrowLast(b[:headLen], 512, 64*mib, 3*mib); !errors.As(err, &short) || short.Short != mib {
		t.Errorf("too long: %v", err)
	}
}

// growers grow partition 2, which begins at 9 MiB, as far as they can.
var growers = map[string]func(t *testing.T, path string){
	"sfdisk":   func(t *testing.T, path string) { call(t, ", +\n", "sfdisk", "-q", "-N", "2", path) },
	"sgdisk":   func(t *testing.T, path string) { call(t, "", "sgdisk", "-d", "2", "-n", "2:18432:0", path) },
	"fdisk":    func(t *testing.T, path string) { call(t, "d\n2\nn\n2\n18432\n\nw\n", "fdisk", path) },
	"growpart": func(t *testing.T, path string) { call(t, "", "growpart", path, "2") },
}

// What grows a partition to the end of the disk stops at room; growpart, which does not, stops at the guard.
func TestGrowersStopAtRoom(t *testing.T) {
	const disk, room = 64 * mib, 50 * mib
	_, b := table(t, 40*mib, 512, script(512))
	for name, grow := range growers {
		for _, guarded := range []bool{false, true} {
			if name == "growpart" && !guarded {
				continue // it strikes the line with the last usable block, and says so
			}
			t.Run(fmt.Sprint(name, guarded), func(t *testing.T) {
				head, at, backup, ok, err := Amend(b[:headLen], 512, disk, room)
				if guarded {
					head, at, backup, ok, err = Guard(b[:headLen], 512, disk, room, [16]byte{1})
				}
				if !ok || err != nil {
					t.Fatal(ok, err)
				}
				path := empty(t, 0)
				save(t, path, lay(b[:29*mib], head, disk, at, backup))
				grow(t, path)
				got := readTable(t, load(t, path))
				if end := got.Parts[1].Off + got.Parts[1].Bytes; end > room || end <= room-2*mib {
					t.Errorf("it grew to %d, and there is room to %d", end, room)
				}
				if !bytes.Equal(load(t, path)[room:at], make([]byte, at-room)) {
					t.Error("it wrote behind the room")
				}
			})
		}
	}
}

func TestGuard(t *testing.T) {
	const image, disk, from = 40 * mib, 64 * mib, 50*mib + 100
	for _, block := range []int64{512, 4096} {
		_, b := table(t, image, int(block), script(block))
		head, at, backup, ok, err := Guard(b[:headLen], int(block), disk, from, [16]byte{1})
		if !ok || err != nil {
			t.Fatal(ok, err)
		}
		got := readHead(t, head, disk, at, backup)
		want := Partition{Number: 128, Off: 50*mib + block, Bytes: at - 50*mib - block, Type: TypeTail, Name: tailName, UUID: "00000001-0000-0000-0000-000000000000"}
		if len(got.Parts) != 3 || got.Parts[2] != want {
			t.Errorf("%+v, want %+v", got.Parts, want)
		}
		path := empty(t, 0)
		save(t, path, lay(b[:29*mib], head, disk, at, backup))
		if bad := verified(t, path, int(block)); bad != "" {
			t.Error(bad)
		}
		again, _, _, ok, err := Guard(head, int(block), disk, from, [16]byte{1})
		if !ok || err != nil || !bytes.Equal(again, head) {
			t.Errorf("guarded twice: %v, %v", ok, err)
		}
		// Growing and guarding go together, and an old guard is not in the way.
		grown, _, _, part, err := GrowLast(head, int(block), disk, from)
		if err != nil || part.Number != 2 || part.Off+part.Bytes != 50*mib {
			t.Errorf("grown: %+v, %v", part, err)
		}
		if both, at, backup, ok, err := Guard(grown, int(block), disk, from, [16]byte{1}); !ok || err != nil || len(readHead(t, both, disk, at, backup).Parts) != 3 {
			t.Errorf("grown and guarded: %v, %v", ok, err)
		}
		head, backup, at, ok, err = Restore(head, int(block), image)
		if !ok || err != nil || !bytes.Equal(head, b[:headLen]) || !bytes.Equal(backup, b[at:]) {
			t.Errorf("restored: %v, %v", ok, err)
		}
		var short *ShortError
		if _, _, _, ok, err := Guard(b[:headLen], int(block), disk, 28*mib, [16]byte{1}); ok || !errors.As(err, &short) || short.Short != mib {
			t.Errorf("over a partition: %v, %v", ok, err)
		}
		if _, _, _, ok, err := Guard(b[:headLen], int(block), disk, disk, [16]byte{1}); ok || !errors.Is(err, ErrUnable) {
			t.Errorf("over nothing: %v, %v", ok, err)
		}
	}
}

func TestGuardMBR(t *testing.T) {
	const disk, from = 64 * mib, 50 * mib
	for entries, want := range map[int]bool{0: false, 1: true, 3: true, 4: false} {
		text := "label: dos\n"
		for i := range entries {
			text += fmt.Sprintf("start=%d,size=2048,type=83\n", 2048*(i+1))
		}
		_, b := table(t, 40*mib, 512, text)
		head, _, backup, ok, err := Guard(b[:headLen], 512, disk, from, [16]byte{1})
		if ok != want || (err != nil) != (entries == 4) || len(backup) > 0 {
			t.Errorf("%d partitions: %v, %v", entries, ok, err)
		}
		if !ok {
			continue
		}
		path := empty(t, 0)
		save(t, path, lay(b, head, disk, 0, nil))
		if bad := verified(t, path, 512); bad != "" {
			t.Error(bad)
		}
		if entries == 1 {
			call(t, "", "growpart", path, "1")
		}
		got := readTable(t, load(t, path))
		if p := got.Parts[len(got.Parts)-1]; p.Number != 4 || p.Off != from || p.Bytes != disk-from || entries == 1 && got.Parts[0].Bytes != from-mib {
			t.Errorf("%+v", got.Parts)
		}
		head, _, _, ok, err = Restore(head, 512, 40*mib)
		if !ok || err != nil || !bytes.Equal(head, b[:headLen]) {
			t.Errorf("restored: %v, %v", ok, err)
		}
	}
}

func TestMake(t *testing.T) {
	for _, block := range []int64{512, 4096} {
		head, at, backup, err := Make(64*mib+100, int(block), [16]byte{1}, Entry{Off: mib, Bytes: 2*mib + 1, Type: LinuxData, UUID: [16]byte{2}, Name: "root"})
		if err != nil {
			t.Fatal(err)
		}
		got := readHead(t, head, 64*mib+100, at, backup)
		if p := got.Parts[0]; p.Off != mib || p.Bytes != 2*mib+block || p.Type != "Linux" || p.Name != "root" || got.Note != "" {
			t.Errorf("%+v", got)
		}
		path := empty(t, 0)
		save(t, path, lay(nil, head, 64*mib, at, backup))
		if bad := verified(t, path, int(block)); bad != "" {
			t.Error(bad)
		}
	}
	var short *ShortError
	if _, _, _, err := Make(4*mib, 512, [16]byte{1}, Entry{Off: mib, Bytes: 3 * mib, Type: LinuxData}); !errors.As(err, &short) || short.Short != 33*512 {
		t.Errorf("too long: %v", err)
	}
	if _, _, _, err := Make(4*mib, 512, [16]byte{1}, Entry{Off: mib, Bytes: mib}); !errors.Is(err, ErrUnable) {
		t.Errorf("without a type: %v", err)
	}
	if _, _, _, err := Make(4*mib, 512, [16]byte{1}, Entry{Off: 512, Bytes: mib, Type: LinuxData}); !errors.Is(err, ErrUnable) {
		t.Errorf("over the table: %v", err)
	}
}
