package layout

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// mixed makes a disk with a FAT, an ext4, a swap area and an unknown partition, and says where the table has them.
func mixed(t testing.TB, script string) []byte {
	t.Helper()
	_, b := table(t, 80*mib, 512, script)
	fat, ext, swap := empty(t, 20*mib), empty(t, 24*mib), empty(t, 4*mib)
	call(t, "", "mkfs.vfat", fat)
	call(t, "", "mke2fs", "-q", "-F", "-t", "ext4", "-d", contents(t, mib), ext)
	call(t, "", "mkswap", "-q", swap)
	copy(b[2*mib:], load(t, fat))
	copy(b[24*mib:], load(t, ext))
	copy(b[50*mib:], load(t, swap))
	copy(b[60*mib:], "XFSB")
	return b
}

const (
	mixedGPT = "label: gpt\nstart=4096,size=40960,type=uefi\nstart=49152,size=51200,type=linux\nstart=102400,size=8192,type=swap\nstart=122880,size=8192,type=linux\n"
	mixedMBR = "label: dos\nstart=4096,size=40960,type=ef\nstart=47104,size=88064,type=5\nstart=49152,size=51200,type=83\nstart=102400,size=8192,type=82\nstart=122880,size=8192,type=83\n"
)

// The map of a disk is that of its partitions, moved to where they are; all else is kept.
func TestMapOfPartitions(t *testing.T) {
	for kind, script := range map[string]string{"gpt": mixedGPT, "mbr": mixedMBR} {
		b := mixed(t, script)
		m := readMap(t, b)
		if m.Table.Kind != kind || len(m.Systems) != 4 {
			t.Fatalf("%+v", m)
		}
		var free, stale []Extent
		for _, p := range []struct{ off, n int64 }{{2 * mib, 20 * mib}, {24 * mib, 25 * mib}, {50 * mib, 4 * mib}, {60 * mib, 4 * mib}} {
			part := readMap(t, b[p.off:p.off+p.n])
			for _, e := range part.Free {
				free = append(free, Extent{e.Off + p.off, e.Bytes})
			}
			for _, e := range part.Stale {
				stale = append(stale, Extent{e.Off + p.off, e.Bytes})
			}
		}
		if fmt.Sprint(m.Free) != fmt.Sprint(merged(free)) || fmt.Sprint(m.Stale) != fmt.Sprint(merged(stale)) || sum(free) < 40*mib || sum(stale) < mib/2 {
			t.Errorf("%s: free %v\nwant %v", kind, m.Free, free)
		}
		for i, want := range []System{{Type: "vfat", Off: 2 * mib, Bytes: 20 * mib}, {Type: "ext4", Off: 24 * mib, Bytes: 24 * mib}, {Type: "swap", Off: 50 * mib, Bytes: 4 * mib, Used: 4096}, {Type: "xfs", Off: 60 * mib, Bytes: 4 * mib, Used: 4 * mib}} {
			x := m.Systems[i]
			if x.Type != want.Type || x.Off != want.Off || x.Bytes != want.Bytes || want.Used > 0 && x.Used != want.Used || (x.Kept != "") != (want.Type == "xfs") || x.Used > x.Bytes {
				t.Errorf("%s: %#v", kind, x)
			}
		}
	}
}

// Where a disk can be read in two ways nothing is free.
func TestMapOfOddDisks(t *testing.T) {
	sound := mixed(t, mixedGPT)
	for _, c := range []struct {
		name, why string
		do        func(b []byte) []byte
		only      int // the partition that it concerns; 0: all
	}{
		{"first table damaged", "damaged", func(b []byte) []byte { b[600]++; return b }, 0},
		{"both tables damaged", "", func(b []byte) []byte { b[600]++; return b[:79*mib] }, 0},
		{"also a CD", "as well", func(b []byte) []byte { copy(b[32769:], "CD001"); return b }, 0},
		{"a hybrid that says something else", "does not", func(b []byte) []byte {
			copy(b[462:], "\x00\x00\x00\x00\x83\x00\x00\x00\x00\x10\x00\x00\x00\x10\x00\x00")
			return b
		}, 0},
		{"cut off", "end of the disk", func(b []byte) []byte { return b[:48*mib] }, 2},
		{"raid", "could be", func(b []byte) []byte { copy(b[49*mib-64<<10:], "\xfc\x4e\x2b\xa9"); return b }, 2},
	} {
		m := readMap(t, c.do(bytes.Clone(sound)))
		for i, x := range m.Systems {
			if c.only == 0 && (x.Kept == "" || !strings.Contains(x.Kept, c.why)) || c.only == i+1 && !strings.Contains(x.Kept, c.why) {
				t.Errorf("%s: %#v", c.name, x)
			}
		}
		if c.only == 0 && len(m.Free)+len(m.Stale) > 0 {
			t.Errorf("%s: %d bytes are free", c.name, sum(m.Free))
		}
	}
	hybrid := bytes.Clone(sound)
	copy(hybrid[462:], "\x00\x00\x00\x00\x0c\x00\x00\x00\x00\x10\x00\x00\x00\xa0\x00\x00") // partition 1, as it is
	if m := readMap(t, hybrid); fmt.Sprint(m.Free) != fmt.Sprint(readMap(t, sound).Free) {
		t.Error("a hybrid that says the same")
	}
	over := mixed(t, mixedMBR)
	copy(over[446+2*16:], "\x00\x00\x00\x00\x83\x00\x00\x00\x00\xc8\x00\x00\x00\x10\x00\x00") // 25 MiB to 27 MiB
	if m := readMap(t, over); !strings.Contains(m.Systems[2].Kept, "overlaps partition 3") || m.Cover(24*mib, 24*mib) || sum(m.Stale) > 0 {
		t.Errorf("overlapping partitions: %#v", m.Systems)
	}
}

func TestCoverAndBlank(t *testing.T) {
	m := Map{Free: []Extent{{100, 50}, {200, 1}, {300, 100}}, Stale: []Extent{{150, 10}}}
	for _, c := range []struct {
		off, n int64
		want   bool
	}{{100, 50, true}, {99, 2, false}, {100, 51, false}, {149, 1, true}, {150, 1, false}, {200, 1, true}, {200, 2, false}, {0, 0, true}, {399, 1, true}, {400, 1, false}, {500, 1, false}, {0, 1000, false}} {
		if got := m.Cover(c.off, c.n); got != c.want {
			t.Errorf("Cover(%d, %d) = %v", c.off, c.n, got)
		}
	}
	for off := range int64(420) {
		for _, n := range []int{0, 1, 7, 60, 300} {
			b := bytes.Repeat([]byte{7}, n)
			changed := m.Blank(b, off)
			any := false
			for i, x := range b {
				at := off + int64(i)
				gone := m.Cover(at, 1) || at >= 150 && at < 160
				any = any || gone
				if gone != (x == 0) {
					t.Fatalf("Blank at %d: byte %d is %d", off, at, x)
				}
			}
			if changed != any || m.Blank(b, off) {
				t.Fatalf("Blank of %d at %d says %v", n, off, changed)
			}
		}
	}
}

// A list never grows beyond its bound, and what it forgets is short.
func TestPieces(t *testing.T) {
	var p pieces
	want := int64(0)
	for i := range int64(maxExtents + 1000) {
		n := int64(1024)
		if i%16 == 0 {
			n = 8192
			want += n
		}
		p.add(i*10_000, n)
	}
	if len(p.list) > maxExtents || sum(p.list) < want {
		t.Errorf("%d extents of %d bytes", len(p.list), sum(p.list))
	}
}

func TestWithout(t *testing.T) {
	for seed := range byte(100) {
		draw := func(seed byte) (list []Extent, set [256]bool) {
			for i, x := range junk(seed, 12) {
				if i%2 == 0 {
					list = append(list, Extent{int64(x) % 200, int64(x) % 13})
				}
			}
			for _, e := range list {
				for i := range e.Bytes {
					set[e.Off+i] = true
				}
			}
			return merged(list), set
		}
		a, inA := draw(seed)
		b, inB := draw(seed + 100)
		got := Map{Free: without(a, b)}
		for i := range int64(256) {
			if got.Cover(i, 1) != (inA[i] && !inB[i]) {
				t.Fatalf("%v without %v is %v", a, b, got.Free)
			}
		}
	}
}

func TestReadEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Read(ctx, bytes.NewReader(make([]byte, mib)), mib); !errors.Is(err, context.Canceled) {
		t.Errorf("Read: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	for _, args := range [][]string{
		{"mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-N", "32", "-J", "size=1"}, {"mke2fs", "-q", "-F", "-t", "ext3", "-b", "1024", "-N", "32", "-O", "^resize_inode,meta_bg", "-g", "512"},
		{"mkfs.vfat", "-F", "12"}, {"mkswap", "-q"},
	} {
		path := empty(f, 4*mib)
		call(f, "", args[0], append(args[1:], path)...)
		f.Add(bytes.TrimRight(load(f, path), "\x00"), int64(4*mib))
	}
	head, _, _, err := Make(1<<20, 512, [16]byte{1}, Entry{Off: 64 << 10, Bytes: 100 << 10, Type: LinuxData})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(head, int64(1<<20))
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		began := time.Now()
		// Sums are made right, or no change would ever get past them.
		if len(b) > 2048 && b[1024+0x38] == 0x53 && size&1 == 0 {
			sb := b[1024:2048]
			sb[0x65] &^= 4 // no check sums of metadata
			sb[0x64] &^= 0x10
		}
		m, err := Read(t.Context(), pasted{{0, b}}, size)
		if err != nil {
			t.Fatal(err)
		}
		if size > 0 {
			check(t, m, size)
		}
		if d := time.Since(began); d > 20*time.Second {
			t.Errorf("it took %v", d)
		}
	})
}

func BenchmarkRead(b *testing.B) {
	path := empty(b, 2<<30)
	call(b, "", "mke2fs", "-q", "-F", "-t", "ext4", "-d", contents(b, 40*mib), path)
	disk := load(b, path)
	r := bytes.NewReader(disk)
	b.ReportAllocs()
	for b.Loop() {
		m, err := Read(b.Context(), r, int64(len(disk)))
		if err != nil || sum(m.Free) < 1<<30 {
			b.Fatal(err, m.Systems)
		}
	}
}
