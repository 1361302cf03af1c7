package ext4

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"carte/lab"
)

// set is some files for a test, and their contents.
type set struct {
	root  *Node
	nodes []*Node
	data  []byte
}

func newSet() *set {
	root := &Node{Mode: TypeDir | 0o755, Names: map[string]*Node{}, Time: time.Unix(1700000000, 5)}
	return &set{root: root, nodes: []*Node{root}}
}

func (s *set) add(name string, n *Node) *Node {
	dir := s.root
	folder, base := filepath.Split(name)
	for part := range strings.SplitSeq(strings.Trim(folder, "/"), "/") {
		if part != "" && dir.Names[part] == nil {
			d := &Node{Path: part, Mode: TypeDir | 0o755, Names: map[string]*Node{}, Time: s.root.Time}
			dir.Names[part] = d
			s.nodes = append(s.nodes, d)
		}
		if part != "" {
			dir = dir.Names[part]
		}
	}
	n.Path, n.Time, dir.Names[base] = name, s.root.Time, n
	s.nodes = append(s.nodes, n)
	return n
}

// file adds a file of n bytes that depend on seed.
func (s *set) file(name string, n int, seed uint64) *Node {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	f := &Node{Mode: TypeFile | 0o644, Size: int64(n)}
	if n > 0 {
		f.Data = []Run{{0, int64(n), int64(len(s.data))}}
	}
	s.data = append(s.data, b...)
	return s.add(name, f)
}

func (s *set) build(t testing.TB, size int64, older *Older) *Image {
	t.Helper()
	im, err := Build(s.nodes, bytes.NewReader(s.data), Options{Label: "x", UUID: testUUID, Size: size}, older)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

func written(t testing.TB, im *Image) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "x.ext4"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := errors.Join(im.WriteTo(t.Context(), f), f.Truncate(im.Size)); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// differ counts the pieces of n bytes in which two images differ, without those that are all zero in b: they cost nothing.
func differ(t testing.TB, a, b io.ReaderAt, size int64, n int) (all int) {
	t.Helper()
	x, y := make([]byte, n), make([]byte, n)
	for off := int64(0); off < size; off += int64(n) {
		k, err := a.ReadAt(x, off)
		if err != nil && err != io.EOF {
			t.Fatal(err)
		}
		if m, err := b.ReadAt(y, off); k != m || err != nil && err != io.EOF {
			t.Fatalf("at %d: %d and %d bytes, %v", off, k, m, err)
		}
		if !bytes.Equal(x[:k], y[:k]) && len(bytes.Trim(y[:k], "\x00")) > 0 {
			all++
		}
	}
	return all
}

// everything is one of everything that a file system holds.
func everything() *set {
	s := newSet()
	for i := range 3000 {
		s.file(fmt.Sprintf("many/a rather long name for a file %d", i), i%3, uint64(i))
	}
	s.add("links/long", &Node{Mode: TypeLink | 0o777, Link: strings.Repeat("x", 300)})
	s.add("links/59", &Node{Mode: TypeLink | 0o777, Link: strings.Repeat("x", 59)})
	s.add("links/60", &Node{Mode: TypeLink | 0o777, Link: strings.Repeat("x", 60)})
	s.add("links/most", &Node{Mode: TypeLink | 0o777, Link: strings.Repeat("x", MaxLink)})
	s.add("dev/large", &Node{Mode: TypeBlock | 0o600, Major: 259, Minor: 300})
	s.add("dev/small", &Node{Mode: TypeChar | 0o600, Major: 5, Minor: 1})
	s.add("dev/pipe", &Node{Mode: TypeFIFO | 0o600})
	s.file("big", 9<<20+5, 1)
	s.root.Names["hard"] = s.root.Names["big"]
	var runs []Run
	for i := range 5000 { // an extent tree of two levels
		runs = append(runs, Run{int64(i) * 8192, 4096, int64(i)})
	}
	s.add("holes", &Node{Mode: TypeFile | 0o4755, UID: 70000, GID: 80000, Size: 5000*8192 + 7, Data: runs})
	s.add("only a hole", &Node{Mode: TypeFile | 0o644, Size: 3 << 40 >> 2})
	s.add("attributes", &Node{Mode: TypeFile | 0o644, Xattrs: map[string][]byte{"security.capability": make([]byte, 20), "user.a": bytes.Repeat([]byte("a"), 100),
		"user.bb": bytes.Repeat([]byte("b"), 101), "trusted.z": bytes.Repeat([]byte("z"), 200), "user.empty": nil, "system.posix_acl_access": list}})
	return s
}

// list is u::rw-, u:1000:r--, g::r--, m::rw-, o::r-- .
var list = []byte{2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 232, 3, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255, 16, 0, 6, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255}

func TestBuildIsAnOrdinaryExt4(t *testing.T) {
	for _, size := range []int64{0, 1 << 30, 40 << 30} {
		im := everything().build(t, size, nil)
		path := written(t, im)
		tool(t, "e2fsck", "-f", "-n", path)
		text := tool(t, "debugfs", "-R", "stat holes", path)
		for _, want := range []string{"Mode:  04755", "User: 70000", "Group: 80000", "Size: 40960007", "Blockcount: 40128"} {
			if !strings.Contains(strings.Join(strings.Fields(text), " "), strings.Join(strings.Fields(want), " ")) {
				t.Errorf("debugfs does not say %q:\n%s", want, text[:400])
			}
		}
		out := filepath.Join(t.TempDir(), "out")
		tool(t, "debugfs", "-R", "dump hard "+out, path)
		if got, err := os.ReadFile(out); err != nil || !bytes.HasSuffix(everything().data, got) || len(got) != 9<<20+5 {
			t.Errorf("the big file has %d bytes, and others, %v", len(got), err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if n := differ(t, im, f, min(im.Size, 2<<30), 1<<20-17); n > 0 {
			t.Errorf("%d pieces were written otherwise than they are read", n)
		}
	}
}

// The same files over their own older version are the same bytes: also where inodes and blocks came in an order of their own.
func TestBuildOverTheSame(t *testing.T) {
	s := everything()
	first := s.build(t, 0, nil)
	older, err := ReadOlder(t.Context(), first, first.Size)
	if err != nil {
		t.Fatal(err)
	}
	if n := differ(t, first, everything().build(t, 0, older), first.Size, 1<<20); n > 0 {
		t.Errorf("%d MiB differ", n)
	}
}

// One file of a tree grows: what differs is that file, and little more. Then files come and go at random, and each version is sound.
func TestBuildKeepsPlaces(t *testing.T) {
	tree := func(kernel int, seed uint64) *set {
		s := newSet()
		for i := range 300 {
			s.file(fmt.Sprintf("usr/lib/lib%d.so", i), 40000+i*97, uint64(i))
		}
		s.file("boot/vmlinuz", kernel, seed)
		for i := range 300 {
			s.file(fmt.Sprintf("usr/share/doc%d", i), 50000+i*89, uint64(1000+i))
		}
		return s
	}
	first := tree(4<<20, 1).build(t, 0, nil)
	older, err := ReadOlder(t.Context(), first, first.Size)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		kernel int
		most   int // chunks of 256 KiB
	}{{4 << 20, 18}, {4<<20 - 30000, 20}, {5 << 20, 27}} {
		next := tree(c.kernel, 2).build(t, 0, older)
		n, anew := differ(t, first, next, first.Size, 256<<10), differ(t, first, tree(c.kernel, 2).build(t, 0, nil), first.Size, 256<<10)
		t.Logf("a kernel of %d instead of %d bytes in a tree of %d: %d chunks of 256 KiB differ; %d without the older version", c.kernel, 4<<20, len(tree(1, 1).data), n, anew)
		if n > c.most {
			t.Errorf("%d chunks differ, want at most %d", n, c.most)
		}
		tool(t, "e2fsck", "-f", "-n", written(t, next))
	}
}

func TestBuildRandomVersions(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	var older *Older
	for version := range 12 {
		s := newSet()
		for i := range 200 {
			switch name := fmt.Sprintf("d%d/f%d", i%9, i); r.IntN(8) {
			case 0:
			case 1:
				s.add(name, &Node{Mode: TypeLink | 0o777, Link: strings.Repeat("y", 1+r.IntN(200))})
			case 2:
				n := s.file(name, r.IntN(9000), uint64(i))
				n.Xattrs = map[string][]byte{"user.x": make([]byte, r.IntN(300))}
			default:
				s.file(name, r.IntN(60000), uint64(i))
			}
		}
		im := s.build(t, 48<<20, older)
		tool(t, "e2fsck", "-f", "-n", written(t, im))
		if older != nil && im.Size != 48<<20 {
			t.Errorf("version %d has %d bytes", version, im.Size)
		}
		var err error
		if older, err = ReadOlder(t.Context(), im, im.Size); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	for name, change := range map[string]func(*set){
		"too small": func(s *set) { s.file("x", 60<<20, 1) },
		"long name": func(s *set) { s.file(strings.Repeat("n", 256), 1, 1) },
		"long link": func(s *set) { s.add("l", &Node{Mode: TypeLink, Link: strings.Repeat("n", MaxLink+1)}) },
		"device":    func(s *set) { s.add("d", &Node{Mode: TypeChar, Major: 4096}) },
		"attribute": func(s *set) {
			s.add("a", &Node{Mode: TypeFile, Xattrs: map[string][]byte{"user.a": make([]byte, 5000)}})
		},
		"namespace": func(s *set) { s.add("a", &Node{Mode: TypeFile, Xattrs: map[string][]byte{"apple.a": nil}}) },
		"access list": func(s *set) {
			s.add("a", &Node{Mode: TypeFile, Xattrs: map[string][]byte{"system.posix_acl_access": {1}}})
		},
		"lost+found": func(s *set) { s.file("lost+found", 1, 1) },
		"no type":    func(s *set) { s.add("t", &Node{Mode: 0o644}) },
	} {
		s := newSet()
		change(s)
		if _, err := Build(s.nodes, bytes.NewReader(s.data), Options{UUID: testUUID, Size: 32 << 20}, nil); !errors.Is(err, lab.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What is damaged or foreign is an error, or some places, and never a panic or a loop.
func FuzzReadOlder(f *testing.F) {
	s := newSet()
	s.file("a/b/c", 9000, 1)
	s.file("a/d", 10, 1)
	im := s.build(f, 2<<20, nil)
	whole := make([]byte, im.Size)
	if _, err := im.ReadAt(whole, 0); err != nil && err != io.EOF {
		f.Fatal(err)
	}
	f.Add(uint32(1024+0x28), byte(1))
	f.Add(uint32(65*BlockSize+256+0x28), byte(9))
	f.Fuzz(func(t *testing.T, at uint32, x byte) {
		b := bytes.Clone(whole)
		for i := range uint32(7) {
			b[(at+i*7919)%uint32(len(b))] ^= x + byte(i)
		}
		older, err := ReadOlder(context.Background(), bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		if _, err := Build(s.nodes, bytes.NewReader(s.data), Options{UUID: testUUID, Size: 2 << 20}, older); err != nil {
			t.Errorf("build over what was read: %v", err)
		}
	})
}
