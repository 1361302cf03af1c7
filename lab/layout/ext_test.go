package layout

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// contents makes a folder with files of many lengths, deep folders, holes and links.
func contents(t testing.TB, bytes int64) string {
	t.Helper()
	dir := t.TempDir()
	for i, left := 0, bytes; left > 0; i++ {
		n := min(left, int64(i*i*37%90_000))
		left -= n + 1
		folder := filepath.Join(dir, fmt.Sprintf("d%d/e%d", i%7, i%31))
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		save(t, filepath.Join(folder, fmt.Sprintf("file %d", i)), junk(byte(i), int(n)))
		if i%9 == 0 {
			if err := os.Symlink("file", filepath.Join(folder, fmt.Sprintf("link %d", i))); err != nil {
				t.Fatal(err)
			}
		}
	}
	hole := filepath.Join(dir, "hole")
	save(t, hole, junk(1, 5000))
	if err := os.Truncate(hole, 3*mib); err != nil {
		t.Fatal(err)
	}
	return dir
}

// tree sums the files of a folder, by name.
func tree(t testing.TB, dir string) map[string][32]byte {
	t.Helper()
	sums := map[string][32]byte{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		sums[name] = sha256.Sum256(load(t, path))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return sums
}

// dumped is what dumpe2fs says is free: by block.
func dumped(t testing.TB, path string) (block int64, free map[int64]bool) {
	t.Helper()
	out := call(t, "", "dumpe2fs", path)
	m := regexp.MustCompile(`Block size: +(\d+)`).FindStringSubmatch(out)
	if m == nil {
		t.Fatal(out)
	}
	block, _ = strconv.ParseInt(m[1], 10, 64)
	free = map[int64]bool{}
	for _, line := range regexp.MustCompile(`(?m)^  Free blocks: (.*)$`).FindAllStringSubmatch(out, -1) {
		for _, part := range strings.Split(line[1], ",") {
			if part = strings.TrimSpace(part); part == "" {
				continue
			}
			var a, b int64
			if n, _ := fmt.Sscanf(part, "%d-%d", &a, &b); n == 1 {
				b = a
			}
			for ; a <= b; a++ {
				free[a] = true
			}
		}
	}
	return block, free
}

// exactly compares a list of extents with a set of blocks.
func exactly(t testing.TB, list []Extent, block int64, want map[int64]bool) {
	t.Helper()
	n := 0
	for _, e := range list {
		if e.Off%block != 0 || e.Bytes%block != 0 {
			t.Fatalf("extent %+v with blocks of %d", e, block)
		}
		for b := e.Off / block; b < (e.Off+e.Bytes)/block; b++ {
			if n++; !want[b] {
				t.Fatalf("block %d is called free, and is not", b)
			}
		}
	}
	if n != len(want) || n == 0 {
		t.Errorf("%d blocks are free, and %d are called so", len(want), n)
	}
}

// spoil writes junk, or zeros, over all that is free, and zeros over all that is stale.
func spoil(m Map, b []byte, seed byte) []byte {
	out, noise := bytes.Clone(b), junk(seed, 99_991)
	for _, e := range m.Free {
		if seed == 0 {
			clear(out[e.Off:][:e.Bytes])
		} else {
			for at := e.Off; at < e.Off+e.Bytes; at += int64(len(noise)) {
				copy(out[at:e.Off+e.Bytes], noise)
			}
		}
	}
	for _, e := range m.Stale {
		clear(out[e.Off:][:e.Bytes])
	}
	return out
}

// unharmed checks that spoiling what nobody needs harms nobody, and that Blank takes it all back.
func unharmed(t *testing.T, m Map, b []byte, intact func(t *testing.T, path string)) {
	t.Helper()
	plain := bytes.Clone(b)
	m.Blank(plain, 0)
	for _, seed := range []byte{0, 1} {
		spoiled := spoil(m, b, seed)
		path := empty(t, 0)
		save(t, path, spoiled)
		intact(t, path)
		if changed := m.Blank(spoiled, 0); changed != (seed != 0) || !bytes.Equal(spoiled, plain) {
			t.Errorf("seed %d: Blank says %v, and gives other bytes: %v", seed, changed, !bytes.Equal(spoiled, plain))
		}
	}
	again := readMap(t, spoil(m, b, 2))
	if fmt.Sprint(again.Free) != fmt.Sprint(m.Free) || fmt.Sprint(again.Stale) != fmt.Sprint(m.Stale) {
		t.Error("what is free depends on what is in it")
	}
}

var extKinds = []struct {
	name, kind string
	size       int64
	args       []string
	stale      bool
}{
	{"ext4", "ext4", 40 * mib, nil, true},
	{"ext4 1k", "ext4", 40 * mib, []string{"-b", "1024"}, true},
	{"ext4 2k odd size", "ext4", 24*mib + 77*1024, []string{"-b", "2048"}, true},
	{"ext4 many groups", "ext4", 40 * mib, []string{"-b", "4096", "-g", "1024"}, true},
	{"ext4 many groups, no flex_bg", "ext4", 40 * mib, []string{"-b", "4096", "-g", "1024", "-O", "^flex_bg"}, true},
	{"ext4 32 bit", "ext4", 40 * mib, []string{"-g", "1024", "-O", "^64bit"}, true},
	{"ext4 32 bit, no sums", "ext4", 40 * mib, []string{"-g", "1024", "-O", "^64bit,^metadata_csum"}, true},
	{"ext4 uninit_bg", "ext4", 40 * mib, []string{"-b", "4096", "-g", "1024", "-O", "^metadata_csum,uninit_bg"}, true},
	{"ext4 uninit_bg 32 bit", "ext4", 40 * mib, []string{"-b", "4096", "-g", "1024", "-O", "^64bit,^metadata_csum,uninit_bg"}, true},
	{"ext4 meta_bg", "ext4", 40 * mib, []string{"-b", "1024", "-g", "512", "-O", "^resize_inode,meta_bg"}, true},
	{"ext4 meta_bg, small groups", "ext4", 40 * mib, []string{"-b", "4096", "-g", "256", "-O", "^resize_inode,meta_bg,^flex_bg"}, true},
	{"ext4 sparse_super2", "ext4", 40 * mib, []string{"-b", "4096", "-g", "1024", "-O", "^resize_inode,sparse_super2"}, true},
	{"ext4 no sparse_super", "ext4", 40 * mib, []string{"-b", "4096", "-g", "1024", "-O", "^resize_inode,^sparse_super"}, true},
	{"ext4 no resize_inode", "ext4", 40 * mib, []string{"-b", "1024", "-O", "^resize_inode"}, true},
	{"ext4 seed", "ext4", 40 * mib, []string{"-O", "metadata_csum_seed,orphan_file"}, true},
	{"ext4 128 byte inodes", "ext4", 40 * mib, []string{"-I", "128"}, true},
	{"ext4 inline, project", "ext4", 40 * mib, []string{"-O", "inline_data,project,large_dir,ea_inode,casefold"}, true},
	{"ext4 no journal", "ext4", 40 * mib, []string{"-O", "^has_journal"}, false},
	{"ext4 large blocks", "ext4", 80 * mib, []string{"-b", "16384"}, true},
	{"ext3", "ext3", 40 * mib, nil, true},
	{"ext3 large journal", "ext3", 40 * mib, []string{"-b", "1024", "-J", "size=12"}, true},
	{"ext2", "ext2", 40 * mib, nil, false},
	{"ext2 old", "ext2", 40 * mib, []string{"-r", "0", "-O", "none"}, false},
}

func TestExt(t *testing.T) {
	dir := contents(t, 2*mib)
	for _, c := range extKinds {
		t.Run(c.name, func(t *testing.T) {
			path := empty(t, c.size)
			args := append([]string{"-q", "-F", "-t", c.kind, "-L", "root", "-d", dir}, c.args...)
			call(t, "", "mke2fs", append(args, path)...)
			b := load(t, path)
			m := readMap(t, b)
			if len(m.Systems) != 1 || m.Systems[0].Kept != "" || !m.Systems[0].Clean || m.Systems[0].Label != "root" || m.Systems[0].UUID == "" {
				t.Fatalf("%+v", m.Systems)
			}
			block, want := dumped(t, path)
			exactly(t, m.Free, block, want)
			x := m.Systems[0]
			if x.Bytes != c.size/block*block || x.Used != x.Bytes-int64(len(want))*block {
				t.Errorf("%#v", x)
			}
			if (len(m.Stale) > 0) != c.stale || c.stale && sum(m.Stale) < mib-block {
				t.Errorf("%d bytes are stale", sum(m.Stale))
			}
			files := func(path string) map[string][32]byte {
				out := t.TempDir()
				call(t, "", "debugfs", "-R", "rdump / "+out, path)
				return tree(t, out)
			}
			sums := files(path)
			unharmed(t, m, b, func(t *testing.T, path string) {
				call(t, "", "e2fsck", "-fn", path)
				if got := files(path); len(sums) < 40 || !maps.Equal(got, sums) {
					t.Errorf("of %d files some have changed", len(sums))
				}
			})
		})
	}
}

// What was written, deleted and written again leaves other bitmaps than mke2fs makes.
func TestExtAged(t *testing.T) {
	for _, block := range []string{"1024", "4096"} {
		path := empty(t, 64*mib)
		call(t, "", "mke2fs", "-q", "-F", "-t", "ext4", "-b", block, "-g", "1024", path)
		dir := contents(t, 4*mib)
		var script strings.Builder
		for i := range 40 {
			fmt.Fprintf(&script, "write \"%s/d%d/e%d/file %d\" f%d\n", dir, i%7, i%31, i, i)
			if i%3 == 2 {
				fmt.Fprintf(&script, "rm f%d\n", i-1)
			}
		}
		call(t, script.String(), "debugfs", "-w", "-f", "/dev/stdin", path)
		b := load(t, path)
		m := readMap(t, b)
		if m.Systems[0].Kept != "" {
			t.Fatal(m.Systems)
		}
		n, want := dumped(t, path)
		exactly(t, m.Free, n, want)
		unharmed(t, m, b, func(t *testing.T, path string) { call(t, "", "e2fsck", "-fn", path) })
	}
}

// What cannot be trusted, or is not understood, is kept to the last byte, and says why.
func TestExtKept(t *testing.T) {
	sound := empty(t, 40*mib)
	call(t, "", "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-g", "1024", sound)
	set := func(lines ...string) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			call(t, strings.Join(lines, "\n")+"\n", "debugfs", "-w", "-f", "/dev/stdin", path)
		}
	}
	flip := func(at int) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			b := load(t, path)
			b[at] ^= 0x40
			save(t, path, b)
		}
	}
	e := &ext{section: &section{source: &source{r: bytes.NewReader(load(t, sound)), size: 40 * mib}, size: 40 * mib}}
	e.sb = e.read(1024, 1024)
	if why := e.parse(); why != "" {
		t.Fatal(why)
	}
	g, why := e.group(e.read(4096, 64), 0)
	if why != "" {
		t.Fatal(why)
	}
	inode8 := int(g.table)*4096 + 7*256
	for _, c := range []struct {
		name, why string
		do        func(t *testing.T, path string)
	}{
		{"crashed", "replayed", set("feature needs_recovery")},
		{"a transaction", "replayed", set("jo", "jw -b 5000 /etc/hostname", "jc")},
		{"a transaction, and the flag is lost", "journal holds something", set("jo", "jw -b 5000 /etc/hostname", "jc", "feature -needs_recovery")},
		{"mounted", "not unmounted", set("set_super_value state 0")},
		{"errors", "errors", set("set_super_value state 3")},
		{"orphans", "not unmounted", set("set_super_value state 5")},
		{"unknown feature", "not known", set("feature FEATURE_I30")},
		{"unknown read-only feature", "not known", set("feature FEATURE_R30")},
		{"super block", "super block is damaged", flip(1024 + 0x80)},
		{"descriptor", "descriptor of its group 3 is damaged", flip(4096 + 3*64 + 0x10)},
		{"bitmap", "bitmap of its group 0 is damaged", flip(int(g.bitmap)*4096 + 100)},
		{"journal's inode", "inode 8 is damaged", flip(inode8 + 0x30)},
		{"journal", "journal is damaged", set("zap_block -f <8> 0")},
		{"too short a disk", "longer than its partition", func(t *testing.T, path string) {
			if err := os.Truncate(path, 39*mib); err != nil {
				t.Fatal(err)
			}
		}},
		{"bigalloc", "bigalloc", func(t *testing.T, path string) {
			call(t, "", "mke2fs", "-q", "-F", "-t", "ext4", "-O", "bigalloc", path)
		}},
		{"also XFS", "ext4 or xfs", func(t *testing.T, path string) {
			b := load(t, path)
			copy(b, "XFSB")
			save(t, path, b)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := empty(t, 0)
			save(t, path, load(t, sound))
			c.do(t, path)
			m := readMap(t, load(t, path))
			x := m.Systems[0]
			if len(m.Free)+len(m.Stale) > 0 || !strings.Contains(x.Kept, c.why) || x.Used != x.Bytes {
				t.Errorf("%#v, %d bytes free; want %q", x, sum(m.Free), c.why)
			}
		})
	}
}

func TestZeroRuns(t *testing.T) {
	for seed := range byte(200) {
		b := junk(seed, 40)
		for i := range b {
			switch seed % 4 {
			case 0:
				b[i] &= b[(i+1)%40]
			case 1:
				b[i] |= b[(i+7)%40] | b[(i+3)%40]
			case 2:
				b[i] = byte(int8(b[i]) >> 7)
			}
		}
		n := 320 - int64(seed)
		var got, want []int64
		zeroRuns(b, n, func(first, n int64) {
			for i := range n {
				got = append(got, first+i)
			}
		})
		for i := range n {
			if b[i/8]>>(i%8)&1 == 0 {
				want = append(want, i)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("seed %d: %v, want %v", seed, got, want)
		}
	}
}

// A file system that was made longer or shorter has its metadata in other places than mke2fs puts it.
func TestExtResized(t *testing.T) {
	for _, c := range []struct{ from, to string }{{"8M", "60M"}, {"60M", "12M"}, {"8M", "300M"}} {
		path := empty(t, 300*mib)
		call(t, "", "mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-g", "2048", "-E", "resize=400000", "-d", contents(t, mib), path, c.from)
		call(t, "", "e2fsck", "-fy", path)
		call(t, "", "resize2fs", path, c.to)
		m := readMap(t, load(t, path))
		block, want := dumped(t, path)
		if m.Systems[0].Kept != "" {
			t.Fatalf("%v: %#v", c, m.Systems)
		}
		exactly(t, m.Free, block, want)
	}
}
