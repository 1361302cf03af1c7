package ext4

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"carte/lab"
)

func open(t testing.TB, r io.ReaderAt, size int64) *FS {
	t.Helper()
	f, err := Open(r, size)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestFilesAreReadAsTheyWereWritten(t *testing.T) {
	s := everything()
	s.file("etc/hello", 9000, 7)
	s.add("usr/lib/deep/up", &Node{Mode: TypeLink | 0o777, Link: "../../../etc"})
	s.add("usr/abs", &Node{Mode: TypeLink | 0o777, Link: "/usr/lib/deep/up/hello"})
	s.add("usr/long", &Node{Mode: TypeLink | 0o777, Link: strings.Repeat("../", 40) + "etc/hello"})
	s.add("usr/circle", &Node{Mode: TypeLink | 0o777, Link: "circle"})
	s.add("usr/nowhere", &Node{Mode: TypeLink | 0o777, Link: "nothing"})
	im := s.build(t, 0, nil)
	f := open(t, im, im.Size)

	want := s.data[len(s.data)-9000:]
	for _, name := range []string{"/etc/hello", "etc/hello", "/usr/lib/deep/up/hello", "/usr/abs", "/usr/long", "/../etc/./hello"} {
		if b, err := f.ReadFile(name, 9000); err != nil || !bytes.Equal(b, want) {
			t.Errorf("ReadFile(%s) = %d bytes, %v", name, len(b), err)
		}
	}
	if b, err := f.ReadFile("/holes", 1<<30); err != nil || len(b) != 5000*8192+7 || !bytes.Equal(b[8192:8192+4096], s.data[1:4097]) || len(bytes.Trim(b[4096:8192], "\x00")) > 0 {
		t.Errorf("a file with holes: %d bytes, %v", len(b), err)
	}
	for name, kind := range map[string]error{
		"/etc/none": lab.ErrNotFound, "/etc/hello/x": lab.ErrNotFound, "/usr/nowhere": lab.ErrNotFound, "/usr/circle": lab.ErrInvalid,
		"/etc": lab.ErrInvalid, "/big": lab.ErrInvalid, "/dev/small": lab.ErrInvalid,
	} {
		if _, err := f.ReadFile(name, 9000); !errors.Is(err, kind) {
			t.Errorf("ReadFile(%s) = %v, want %v", name, err, kind)
		}
	}
}

func TestWalkTellsEveryFileOnce(t *testing.T) {
	s := everything()
	im := s.build(t, 0, nil)
	modes := map[string]string{}
	var order []string
	err := open(t, im, im.Size).Walk(func(path string, mode uint32, size int64) error {
		order = append(order, path)
		modes[path] = fmt.Sprintf("%o %d", mode, size)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"/big": "100644 9437189", "/hard": "100644 9437189", "/dev": "40755 0", "/dev/large": "60600 0", "/links/60": "120777 0", "/holes": "104755 40960007", "/lost+found": "40700 0"} {
		if modes[path] != want {
			t.Errorf("%s is %q, want %q", path, modes[path], want)
		}
	}
	if len(order) != len(s.nodes)+1 || len(modes) != len(order) { // without the root; lost+found, and a second name
		t.Errorf("%d names, %d different, of %d files", len(order), len(modes), len(s.nodes))
	}
	if many := order[slices.Index(order, "/many")+1:][:3000]; !slices.IsSorted(many) || !strings.HasPrefix(many[2999], "/many/") {
		t.Error("a directory is not sorted, or does not come before what is in it")
	}
	stop := errors.New("enough")
	count := 0
	err = open(t, im, im.Size).Walk(func(path string, _ uint32, _ int64) error {
		if count++; path == "/many" {
			return fs.SkipDir
		}
		if path == "/only a hole" {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || count > 20 {
		t.Errorf("%v after %d files", err, count)
	}
}

// A file system of mke2fs has check sums, 64-bit descriptors and indexed directories.
func TestAnotherExt4IsReadToo(t *testing.T) {
	dir, path := t.TempDir(), filepath.Join(t.TempDir(), "x")
	for i := range 2000 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("a name that is rather long, number %d", i)), []byte{byte(i)}, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tool(t, "mke2fs", "-q", "-t", "ext4", "-b", "4096", "-d", dir, path, "64m")
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	f, n := open(t, file, 64<<20), 0
	if b, err := f.ReadFile("/a name that is rather long, number 1999", 1); err != nil || !bytes.Equal(b, []byte{1999 & 0xff}) {
		t.Errorf("%v, %v", b, err)
	}
	if err := f.Walk(func(string, uint32, int64) error { n++; return nil }); err != nil || n != 2001 {
		t.Errorf("%d files, %v", n, err)
	}
	if _, err := ReadOlder(t.Context(), file, 64<<20); !errors.Is(err, lab.ErrInvalid) {
		t.Errorf("its places are kept: %v", err)
	}
}

func FuzzReadFiles(f *testing.F) {
	s := newSet()
	s.file("etc/hello", 9000, 7)
	s.add("etc/link", &Node{Mode: TypeLink | 0o777, Link: "hello"})
	im, err := Build(s.nodes, bytes.NewReader(s.data), Options{Label: "x", UUID: testUUID, Size: 32 << 20}, nil)
	if err != nil {
		f.Fatal(err)
	}
	whole := make([]byte, im.Size)
	if _, err := im.ReadAt(whole, 0); err != nil && err != io.EOF {
		f.Fatal(err)
	}
	f.Add(uint32(sbAt+sbInodesPerGroup), []byte{1, 2, 3})
	f.Add(uint32(BlockSize), []byte{0xff, 0xff, 0xff})
	f.Add(uint32((1+reservedBlocks)*BlockSize+inodeSize+inBlock), []byte{0x0a, 0xf3, 9, 9, 9})
	f.Fuzz(func(t *testing.T, at uint32, with []byte) {
		b := bytes.Clone(whole)
		copy(b[int(at)%len(b):], with)
		fs, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		_, _ = fs.ReadFile("/etc/link", 1<<20)
		_ = fs.Walk(func(string, uint32, int64) error { return nil })
		_, _ = ReadOlder(context.Background(), bytes.NewReader(b), int64(len(b)))
	})
}
