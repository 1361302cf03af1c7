package store

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"carte/lab"
	"carte/lab/chunk"
	"carte/lab/layout"
)

// run calls a program and fails the test with what it said. Where it is missing, `make test` installs it.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	for _, dir := range []string{"/usr/sbin/", "/sbin/"} {
		if err != nil {
			path, err = exec.LookPath(dir + name)
		}
	}
	if err != nil {
		t.Skipf("%s is not installed; testdata/need test brings it", name)
	}
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// dirtyTree makes a file with an ext4 file system of size bytes that holds the files, and noise wherever it needs nothing.
func dirtyTree(t testing.TB, size int, seed uint64, files map[string][]byte) string {
	t.Helper()
	dir, path := t.TempDir(), filepath.Join(t.TempDir(), "tree.ext4")
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, noise(size, seed), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", "-d", dir, path)
	return path
}

// onADisk puts a file system into the first partition of a disk with a GPT.
func onADisk(t testing.TB, tree string) string {
	t.Helper()
	b := readFile(t, tree)
	size := int64(len(b)) + 2<<20
	head, backupAt, backup, err := layout.Make(size, 512, [16]byte{7}, layout.Entry{Off: 1 << 20, Bytes: int64(len(b)), Type: layout.LinuxData, UUID: [16]byte{8}})
	if err != nil {
		t.Fatal(err)
	}
	all := make([]byte, size)
	copy(all, head)
	copy(all[1<<20:], b)
	copy(all[backupAt:], backup)
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, all, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// importFile imports the file into a desk as a person does, or as a stream.
func importFile(t *testing.T, d *Desk, path, name string, form lab.Form, stream, whole bool) lab.Imported {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var r io.Reader = f
	if stream {
		r = io.MultiReader(f)
	}
	got, err := d.Import(t.Context(), r, lab.Import{Name: name, Kind: "system", Form: form, File: path, Whole: whole}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func exportTo(t *testing.T, d *Desk, ref string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "exported")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want, err := lab.ParseRef(ref)
	if err == nil {
		err = d.Export(t.Context(), want, f, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// What file systems do not need is left out, whichever way an image comes: as a file, a stream, packed, or in qcow2. The root is the same, an export
// of it has the same root, and nothing of what was left out stays in the store.
func TestImportLeavesOutFreeSpace(t *testing.T) {
	const size = 48 << 20
	tree := dirtyTree(t, size, 1, map[string][]byte{"a": noise(3<<20, 2), "b": bytes.Repeat([]byte("text"), 1<<18)})
	for _, x := range []struct {
		form lab.Form
		path string
	}{{lab.FormTree, tree}, {lab.FormDisk, onADisk(t, tree)}} {
		t.Run(string(x.form), func(t *testing.T) {
			d := hold(t, t.TempDir())
			defer d.State.Close()
			one := importFile(t, d, x.path, "a", x.form, false, false)
			v := one.Version
			if v.Content >= 9<<20 || v.Stored >= 5<<20 || v.FileSystems != size || v.Bytes < size || len(one.Warnings) > 1 {
				t.Errorf("%+v", one)
			}
			for way, got := range map[string]lab.Imported{
				"stream": importFile(t, hold(t, t.TempDir()), x.path, "a", x.form, true, false),
				"gzip":   importFile(t, hold(t, t.TempDir()), gzipped(t, x.path), "a", x.form, false, false),
				"qcow2":  importFile(t, hold(t, t.TempDir()), qcow2(t, x.path), "a", x.form, false, false),
			} {
				if got.Version.Root != v.Root || got.Version.Content != v.Content || got.Version.FileSystems != size || got.New != one.New {
					t.Errorf("as %s: %+v, want the root %v", way, got, v.Root)
				}
			}
			out := exportTo(t, d, "a@1")
			if again := importFile(t, d, out, "a", x.form, false, false); !again.Same || again.New != 0 {
				t.Errorf("its own export: %+v", again)
			}
			if again := importFile(t, d, out, "a", x.form, true, false); !again.Same || again.New != 0 {
				t.Errorf("its own export as a stream: %+v", again)
			}
			if x.form == lab.FormTree {
				run(t, "e2fsck", "-f", "-n", out)
			}
			if got, err := d.Collect(t.Context(), true); err != nil || got.Bytes != 0 || got.Slack > v.Stored/8 {
				t.Errorf("left for gc: %+v, %v", got, err)
			}
		})
	}
}

// An image that is kept whole comes back byte for byte, and says how far its file system reaches.
func TestImportWhole(t *testing.T) {
	tree := dirtyTree(t, 16<<20, 3, nil)
	for _, stream := range []bool{false, true} {
		d := hold(t, t.TempDir())
		defer d.State.Close()
		got := importFile(t, d, tree, "a", lab.FormTree, stream, true)
		if got.Version.Content < 12<<20 || got.Version.FileSystems != 16<<20 || len(got.Warnings) > 0 {
			t.Errorf("%+v", got)
		}
		if !bytes.Equal(readFile(t, exportTo(t, d, "a")), readFile(t, tree)) {
			t.Error("not what was imported")
		}
	}
}

// Ten cycles of junk, written and deleted in free space, do not make the image grow.
func TestJunkInFreeSpaceStoresNothing(t *testing.T) {
	d := hold(t, t.TempDir())
	defer d.State.Close()
	tree := dirtyTree(t, 24<<20, 5, map[string][]byte{"a": noise(1<<20, 6)})
	first := importFile(t, d, tree, "a", lab.FormTree, false, false)
	f, err := os.Open(tree)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	found, err := layout.Read(t.Context(), f, 24<<20)
	if err != nil {
		t.Fatal(err)
	}
	for cycle := range 10 {
		b := readFile(t, tree)
		for _, e := range found.Free {
			copy(b[e.Off:e.Off+e.Bytes], noise(int(e.Bytes), uint64(10+cycle)))
		}
		path := filepath.Join(t.TempDir(), "junk")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := importFile(t, d, path, "a", lab.FormTree, cycle%2 == 0, false); !got.Same || got.New != 0 || got.Version.Root != first.Version.Root {
			t.Errorf("cycle %d: %+v", cycle, got)
		}
	}
}

// What cannot be understood is kept, and a person hears why.
func TestImportSaysWhyFreeSpaceIsKept(t *testing.T) {
	d := hold(t, t.TempDir())
	defer d.State.Close()
	b := noise(telling, 9)
	copy(b, "XFSB")
	clear(b[108:120]) // its label
	path := filepath.Join(t.TempDir(), "data.raw")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := d.Import(t.Context(), f, lab.Import{Name: "a", Kind: "project", Form: lab.FormDisk}, nil)
	if err != nil || got.Version.Content != telling || len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], "(xfs) is kept: its free space cannot be read") {
		t.Errorf("%+v, %v", got, err)
	}
}

// A pack from which most was taken out again is as if that had never been in it, also when its index is made again.
func TestShrunkPack(t *testing.T) {
	dir := t.TempDir()
	c := openChunks(t, dir)
	w, err := c.Writer()
	if err != nil {
		t.Fatal(err)
	}
	listed, m := map[chunk.ID]bool{}, chunk.Manifest{}
	var want []byte
	for i := range 40 {
		b := noise(chunk.Size, uint64(20+i))
		id := chunk.Sum(b)
		if _, err := w.Put(id, chunk.Pack(nil, b)); err != nil {
			t.Fatal(err)
		}
		if i%3 == 1 {
			listed[id] = true
			want, m.IDs, m.Size = append(want, b...), append(m.IDs, id), m.Size+chunk.Size
		}
	}
	n, size, err := w.keepOnly(listed)
	if err != nil || n != len(m.IDs) {
		t.Fatal(n, err)
	}
	root, err := w.CommitManifest(m)
	if err != nil {
		t.Fatal(err)
	}
	wantExport(t, c, root, want)
	if c.Total() != size+int64(len(packMagic)) {
		t.Errorf("the pack has %d bytes, of which %d are needed", c.Total(), size)
	}
	c.Close()
	if err := os.Remove(indexPath(c.packDir(), 0)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(indexPath(c.packDir(), 0), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wantExport(t, openChunks(t, dir), root, want)
}

func gzipped(t *testing.T, path string) string {
	t.Helper()
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	z.Write(readFile(t, path))
	z.Close()
	out := filepath.Join(t.TempDir(), "image.gz")
	if err := os.WriteFile(out, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return out
}

func qcow2(t *testing.T, path string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "image.qcow2")
	run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", path, out)
	return out
}
