package media

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"carte/lab"
)

var testUUID = [16]byte{0xca, 0x27, 0xe0, 1, 2, 3, 0x44, 5, 0x86, 7, 8, 9, 10, 11, 12, 13}

type tarEntry struct {
	h    tar.Header
	body string
}

// testTar holds one of everything, and n small files.
func testTar(t testing.TB, n int) []byte {
	t.Helper()
	x := map[string]string{"SCHILY.xattr.user.b": "two", "SCHILY.xattr.user.a": "one", "SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}
	long := strings.Repeat("long/", 30) + "target"
	entries := []tarEntry{
		{tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "from git"}}, ""},
		{tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}, ""},
		{tar.Header{Name: "./etc/", Typeflag: tar.TypeDir, Mode: 0o755}, ""},
		{tar.Header{Name: "./etc/hostname", Mode: 0o644, PAXRecords: x}, "vm-1\n"},
		{tar.Header{Name: "./bin/su", Mode: 0o4755, Uid: 0, Gid: 70000}, "elf"},
		{tar.Header{Name: "bin/hard", Typeflag: tar.TypeLink, Linkname: "./bin/su"}, ""},
		{tar.Header{Name: "bin/soft", Typeflag: tar.TypeSymlink, Linkname: "/bin/su"}, ""},
		{tar.Header{Name: "bin/far", Typeflag: tar.TypeSymlink, Linkname: long}, ""},
		{tar.Header{Name: "dev/console", Typeflag: tar.TypeChar, Mode: 0o600, Devmajor: 5, Devminor: 1}, ""},
		{tar.Header{Name: "dev/sda300", Typeflag: tar.TypeBlock, Mode: 0o600, Devmajor: 259, Devminor: 300}, ""},
		{tar.Header{Name: "run/pipe", Typeflag: tar.TypeFifo, Mode: 0o600}, ""},
		{tar.Header{Name: "up", Mode: 0o644}, "stays inside"},
		{tar.Header{Name: "empty", Mode: 0o644}, ""},
		{tar.Header{Name: "big", Mode: 0o644}, string(sample(9<<20 + 5))},
	}
	for i := range n {
		entries = append(entries, tarEntry{tar.Header{Name: fmt.Sprintf("many/d%d/f%d", i%7, i), Mode: 0o644}, fmt.Sprint(i)})
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := e.h
		h.Size, h.ModTime = int64(len(e.body)), time.Unix(1700000000, 0)
		if h.Typeflag == tar.TypeXGlobalHeader {
			h = tar.Header{Typeflag: h.Typeflag, PAXRecords: h.PAXRecords}
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, e.body)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func buildTree(t testing.TB, in []byte, opt TreeOptions) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "tree.ext4"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Tree(t.Context(), bytes.NewReader(in), f, opt); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

func fsck(t *testing.T, path string) {
	t.Helper()
	out, err := exec.Command(need(t, "e2fsck"), "-f", "-n", path).CombinedOutput()
	if err != nil {
		t.Fatalf("e2fsck: %v\n%s", err, out)
	}
}

func TestTreeIsAnOrdinaryExt4(t *testing.T) {
	need(t, "e2fsck")
	for _, c := range []struct {
		files int
		size  int64
	}{{0, 0}, {50, 24 << 20}, {3000, 200 << 20}, {100, 128<<20 + 4096}, {10, 3 << 30}, {20, 40 << 30}, {9000, 0}} {
		t.Run(fmt.Sprint(c.files, "files", c.size>>20, "MiB"), func(t *testing.T) {
			path := buildTree(t, testTar(t, c.files), TreeOptions{Label: "carte-root", UUID: testUUID, Size: c.size})
			st, err := os.Stat(path)
			if err != nil || c.size > 0 && st.Size() != c.size {
				t.Errorf("size %d, want %d, %v", st.Size(), c.size, err)
			}
			fsck(t, path)
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			facts, err := Sniff(f, st.Size())
			want := FileSystem{Type: "ext4", Label: "carte-root", UUID: "ca27e001-0203-4405-8607-08090a0b0c0d", Size: st.Size()}
			if err != nil || facts.Whole != want {
				t.Errorf("Sniff = %+v, %v", facts, err)
			}
			writeIntoTree(t, path)
			fsck(t, path)
		})
	}
}

// writeIntoTree looks at the tree with debugfs, and fills and empties it.
func writeIntoTree(t *testing.T, path string) {
	t.Helper()
	debugfs := need(t, "debugfs")
	in := write(t, "in", sample(5<<20))
	out := filepath.Join(t.TempDir(), "out")
	var cmds strings.Builder
	fmt.Fprintf(&cmds, "dump big %s\n", out)
	for i := range 40 {
		fmt.Fprintf(&cmds, "mkdir new%d\nwrite %s new%d/f\n", i, write(t, "small", sample(20000)), i)
	}
	fmt.Fprintf(&cmds, "write %s five\nrm big\nwrite %s six\nstat etc/hostname\nstat bin/su\nstat dev/sda300\nstat bin/far\nea_get etc/hostname user.a\nstat up\n", in, in)
	text := run(t, debugfs, "-w", "-f", write(t, "cmds", []byte(cmds.String())), path)
	for _, want := range []string{"user.a", "Links: 2", "Mode:  04755", "70000", "Device major/minor number: 259:300", "Size: 156"} {
		if !strings.Contains(text, want) {
			t.Errorf("debugfs does not say %q", want)
		}
	}
	if strings.Contains(text, "not found") || strings.Contains(text, "No space") {
		t.Errorf("debugfs:\n%s", text)
	}
	if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, sample(9<<20+5)) {
		t.Errorf("the big file came back different: %v", err)
	}
}

func TestTreeIsDeterministic(t *testing.T) {
	in := testTar(t, 200)
	opt := TreeOptions{Label: "x", UUID: testUUID, Size: 64 << 20}
	a, err := os.ReadFile(buildTree(t, in, opt))
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if b, err := os.ReadFile(buildTree(t, in, opt)); err != nil || !bytes.Equal(a, b) {
			t.Fatal("the same tar gave other bytes")
		}
	}
}

func TestTreeRefuses(t *testing.T) {
	in := testTar(t, 5)
	opt := TreeOptions{UUID: testUUID}
	f, err := os.Create(filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	build := func(in []byte, opt TreeOptions) error { return Tree(t.Context(), bytes.NewReader(in), f, opt) }
	for name, opt := range map[string]TreeOptions{"no uuid": {}, "label": {UUID: testUUID, Label: "seventeen letters"}, "odd": {UUID: testUUID, Size: 5000},
		"huge": {UUID: testUUID, Size: 2 << 40}, "small": {UUID: testUUID, Size: 8 << 20}, "tiny": {UUID: testUUID, Size: 4096}} {
		if err := build(in, opt); !errors.Is(err, lab.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, cut := range []int{0, 512, 700, 1536, 5000, len(in) / 2, len(in) - 1024 - 512} {
		if err := build(in[:cut], opt); !errors.Is(err, lab.ErrDamaged) {
			t.Errorf("cut at %d of %d: %v", cut, len(in), err)
		}
	}
	// At every boundary of an entry archive/tar sees an orderly end.
	for cut := 512; cut < 40*512; cut += 512 {
		if err := build(in[:cut], opt); !errors.Is(err, lab.ErrDamaged) {
			t.Errorf("cut at %d of %d: %v", cut, len(in), err)
		}
	}
	if err := build([]byte(strings.Repeat("not a tar at all ", 100)), opt); !errors.Is(err, lab.ErrDamaged) {
		t.Errorf("no tar: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Tree(ctx, bytes.NewReader(in), f, opt); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// The kernel is the judge that counts; it needs root and a loop device.
func TestTreeMounts(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	path := buildTree(t, testTar(t, 500), TreeOptions{Label: "x", UUID: testUUID, Size: 1 << 30})
	dir := t.TempDir()
	if out, err := exec.Command(need(t, "mount"), "-t", "ext4", "-o", "loop", path, dir).CombinedOutput(); err != nil {
		t.Skipf("no loop mount to be had here: %v %s", err, out)
	}
	mounted := true
	unmount := func() {
		if mounted {
			mounted = false
			run(t, need(t, "umount"), dir)
		}
	}
	defer unmount()
	if b, err := os.ReadFile(filepath.Join(dir, "etc/hostname")); err != nil || string(b) != "vm-1\n" {
		t.Errorf("hostname: %q, %v", b, err)
	}
	for i := range 2000 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("new", i)), sample(i*40), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(filepath.Join(dir, "many")); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "large"), make([]byte, 400<<20), 0o600); err != nil {
		t.Error(err)
	}
	unmount()
	fsck(t, path)
}

func BenchmarkTree(b *testing.B) {
	in := testTar(b, 5000)
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		buildTree(b, in, TreeOptions{UUID: testUUID, Size: 4 << 30})
	}
}
