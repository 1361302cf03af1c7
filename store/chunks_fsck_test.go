package store

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"carte/lab"
	"carte/lab/chunk"
)

// flip changes one bit of a file.
func flip(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 4
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}

func fsck(t *testing.T, c *Chunks, roots ...chunk.ID) lab.Fscked {
	t.Helper()
	var versions []lab.Version
	for i, root := range roots {
		versions = append(versions, lab.Version{Image: "deb", Number: i + 1, Root: root})
	}
	var last int64
	got, err := c.Fsck(t.Context(), func() ([]lab.Version, error) { return versions, nil }, func(done, of int64) {
		if done <= last || done > of {
			t.Errorf("progress %d of %d after %d", done, of, last)
		}
		last = done
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// wantExportForGood is wantExport now and when the store is opened again.
func wantExportForGood(t *testing.T, c *Chunks, root chunk.ID, want []byte) {
	t.Helper()
	wantExport(t, c, root, want)
	c.Close()
	wantExport(t, openChunks(t, c.dir), root, want)
}

// Each of many flipped bits, anywhere in chunks or their frames, is found, and only those; importing again mends them.
func TestFsckFindsEveryFlippedByte(t *testing.T) {
	dir := t.TempDir()
	c := openChunks(t, dir)
	b := make([]byte, 40*chunk.Size+77)
	rand.NewChaCha8([32]byte{50}).Read(b)
	root, st := mustImport(t, c, b)
	other, _ := mustImport(t, c, b[:3*chunk.Size])
	if got := fsck(t, c, root, other); got.Chunks != st.NewChunks || len(got.Broken) != 0 || got.Bytes != st.New {
		t.Fatalf("sound: %+v, stored %+v", got, st)
	}
	r := rand.New(rand.NewPCG(50, 1))
	hit := map[chunk.ID]bool{}
	for id, at := range c.index {
		if r.IntN(2) == 0 {
			hit[id] = true
			flip(t, packPath(c.packDir(), at.pack), at.off+int64(r.IntN(int(at.len))))
		}
	}
	framed := 0
	for id, at := range c.index {
		if !hit[id] && r.IntN(2) == 0 { // the chunk can still be read
			framed++
			flip(t, packPath(c.packDir(), at.pack), at.off-1-int64(r.IntN(chunk.FrameHeader)))
		}
	}
	got := fsck(t, c, root, other)
	if len(got.Broken) != len(hit) || got.Mended != framed {
		t.Errorf("%d broken, want %d; %d mended, want %d", len(got.Broken), len(hit), got.Mended, framed)
	}
	for _, x := range got.Broken {
		if !hit[x.ID] || x.Why != "damaged" || len(x.Versions) == 0 || x.Versions[0].Version != 1 {
			t.Errorf("%+v", x)
		}
	}
	t.Logf("%d flips in chunks, %d in frames", len(hit), framed)
	if got := fsck(t, c, root, other); got.Mended != 0 {
		t.Errorf("mended twice: %+v", got)
	}
	mustImport(t, c, b)
	if got := fsck(t, c, root, other); len(got.Broken) != 0 || got.Mended != 0 {
		t.Errorf("after the import: %+v", got)
	}
	wantExportForGood(t, c, root, b)
}

// A good copy in an older pack is used.
func TestFsckMendsFromAnotherPack(t *testing.T) {
	dir := t.TempDir()
	c := openChunks(t, dir)
	b := disk(51, 4*chunk.Size)
	root, st := mustImport(t, c, b)
	for id := range c.index {
		c.bad[id] = true // so that the same is stored again
	}
	if _, again := mustImport(t, c, b); again.NewChunks != st.NewChunks {
		t.Fatalf("%+v", again)
	}
	for _, at := range c.index {
		if at.pack != 1 {
			t.Fatalf("the newest pack does not count: %+v", at)
		}
		flip(t, packPath(c.packDir(), 1), at.off+int64(at.len)/2)
	}
	if err := c.Verify(t.Context(), root, nil); !errors.Is(err, lab.ErrDamaged) {
		t.Fatal(err)
	}
	if got := fsck(t, c, root); got.Mended != st.NewChunks || len(got.Broken) != 0 {
		t.Errorf("%+v", got)
	}
	wantExportForGood(t, c, root, b)
}

// What comes from elsewhere is taken where it is lacking, and only what hashes.
func TestMend(t *testing.T) {
	c := openChunks(t, t.TempDir())
	b := noise(6*chunk.Size, 53)
	root, _ := mustImport(t, c, b)
	m, frames := framesOf(b)
	for _, id := range m.IDs[:4] {
		flip(t, packPath(c.packDir(), 0), c.index[id].off+99)
	}
	if got := fsck(t, c, root); got.Damaged != 4 || len(got.Broken) != 4 {
		t.Fatalf("%+v", got)
	}
	n := 0
	whole, err := c.Mend(func() (chunk.ID, []byte, error) {
		id, stored, err := frames()
		if n++; n == 3 {
			stored[9] ^= 1
		}
		return id, stored, err
	})
	if err != nil || len(whole) != 5 || slices.Contains(whole, m.IDs[2]) || c.Total() > int64(len(b))*10/6 {
		t.Errorf("%d are whole, %d bytes stored, %v", len(whole), c.Total(), err)
	}
	if got := fsck(t, c, root); len(got.Broken) != 1 || got.Broken[0].ID != m.IDs[2] {
		t.Errorf("%+v", got)
	}
	_, frames = framesOf(b)
	if _, err := c.Mend(func() (chunk.ID, []byte, error) { return chunk.ID{}, nil, errors.New("cut off") }); err == nil {
		t.Error("an end that is none was taken for one")
	}
	if whole, err := c.Mend(frames); err != nil || len(whole) != 6 {
		t.Error(whole, err)
	}
	if got := fsck(t, c, root); got.Damaged != 0 {
		t.Errorf("%+v", got)
	}
	wantExportForGood(t, c, root, b)
}

func TestFsckManifestsAndIndexes(t *testing.T) {
	dir := t.TempDir()
	c := openChunks(t, dir)
	b := disk(52, 4*chunk.Size)
	root, _ := mustImport(t, c, b)
	flip(t, c.manifestPath(root), 70)
	flip(t, indexPath(c.packDir(), 0), 70)
	got := fsck(t, c, root, chunk.ID{9})
	if len(got.Broken) != 2 || len(got.Notes) != 1 || got.Chunks == 0 {
		t.Errorf("%+v", got)
	}
	for _, x := range got.Broken {
		if want := map[chunk.ID]string{root: "damaged", {9}: "missing"}[x.ID]; x.What != "manifest" || x.Why != want {
			t.Errorf("%+v, want %s", x, want)
		}
	}
	mustImport(t, c, b)
	c.Close()
	if index, err := os.ReadFile(indexPath(c.packDir(), 0)); err != nil || !isIndex(index) {
		t.Errorf("the index was not mended: %v", err)
	}
	c = openChunks(t, dir)
	var out bytes.Buffer
	if err := c.Export(t.Context(), root, &out, nil); err != nil || !bytes.Equal(out.Bytes(), b) {
		t.Errorf("export: %v", err)
	}
}

func isIndex(b []byte) bool { _, ok := decodeIndex(b); return ok }
