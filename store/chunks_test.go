package store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"carte/lab"
	"carte/lab/chunk"
)

func openChunks(t *testing.T, dir string) *Chunks {
	t.Helper()
	c, err := OpenChunks(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// disk returns n bytes with noise, text and zeros in runs, the same for the same seed.
func disk(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 3))
	noise := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	b := make([]byte, n)
	for o := 0; o < n; {
		e := min(n, o+1+r.IntN(2*chunk.Size))
		switch r.IntN(3) {
		case 0:
			noise.Read(b[o:e])
		case 1:
			copy(b[o:e], bytes.Repeat([]byte{byte(r.Uint32()), 'x', 'y', '\n'}, (e-o)/4+1))
		}
		o = e
	}
	return b
}

func mustImport(t *testing.T, c *Chunks, b []byte) (chunk.ID, Stats) {
	t.Helper()
	m, st, err := c.Import(t.Context(), bytes.NewReader(b), nil)
	if err != nil {
		t.Fatalf("import: %v", err)
	}
	return m.Root(), st
}

func wantExport(t *testing.T, c *Chunks, root chunk.ID, want []byte) {
	t.Helper()
	var got bytes.Buffer
	if err := c.Export(t.Context(), root, &got, nil); err != nil {
		t.Fatalf("export: %v", err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Fatalf("export gave %d bytes that are not the %d imported", got.Len(), len(want))
	}
}

// files returns the names of all regular files in dir.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	for _, d := range []string{"packs", "manifests"} {
		list, err := os.ReadDir(filepath.Join(dir, d))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			names = append(names, d+"/"+e.Name())
		}
	}
	return names
}

func TestImportExport(t *testing.T) {
	dir := t.TempDir()
	c := openChunks(t, dir)
	kept := map[chunk.ID][]byte{}
	for _, n := range []int{0, 1, 511, chunk.Size - 1, chunk.Size, chunk.Size + 1, 7*chunk.Size + 100, 3 << 20} {
		for seed := range uint64(3) {
			b := disk(seed, n)
			root, st := mustImport(t, c, b)
			if st.Bytes != int64(n) || st.Chunks != chunk.Count(int64(n)) {
				t.Errorf("size %d: %+v", n, st)
			}
			kept[root] = b
		}
	}
	zeros := make([]byte, 5*chunk.Size+1)
	root, st := mustImport(t, c, zeros)
	kept[root] = zeros
	if st.New != 0 || st.NewChunks != 0 {
		t.Errorf("zeros were stored: %+v", st)
	}
	perm := disk(1, 3<<20) // the same chunks in another order
	rand.New(rand.NewPCG(1, 1)).Shuffle(12, func(i, j int) {
		a, b := perm[i*chunk.Size:][:chunk.Size], perm[j*chunk.Size:][:chunk.Size]
		tmp := bytes.Clone(a)
		copy(a, b)
		copy(b, tmp)
	})
	root, st = mustImport(t, c, perm)
	kept[root] = perm
	if st.NewChunks != 0 {
		t.Errorf("permuted chunks were stored again: %+v", st)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = openChunks(t, dir)
	for root, b := range kept {
		wantExport(t, c, root, b)
		if err := c.Verify(t.Context(), root, nil); err != nil {
			t.Error(err)
		}
	}
	if roots, err := c.Roots(); err != nil || len(roots) != len(kept) {
		t.Errorf("Roots = %d of %d, %v", len(roots), len(kept), err)
	}
}

func TestImportAgainStoresNothing(t *testing.T) {
	dir := t.TempDir()
	c := openChunks(t, dir)
	b := disk(4, 4<<20)
	root, st := mustImport(t, c, b)
	if st.NewChunks == 0 || c.Total() < st.New {
		t.Errorf("first import: %+v, packs have %d bytes", st, c.Total())
	}
	before, total := files(t, dir), c.Total()
	again, st := mustImport(t, c, b)
	if again != root || st.New != 0 || c.Total() != total || len(files(t, dir)) != len(before) {
		t.Errorf("second import: root %v, %+v, files %v", again, st, files(t, dir))
	}
	b[chunk.Size+7]++
	if _, st := mustImport(t, c, b); st.NewChunks != 1 {
		t.Errorf("one byte changed: %+v", st)
	}
}

func TestExportFileHasHoles(t *testing.T) {
	c := openChunks(t, t.TempDir())
	b := make([]byte, 8*chunk.Size+5)
	copy(b[3*chunk.Size:], "something")
	root, _ := mustImport(t, c, b)
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.Write(bytes.Repeat([]byte{7}, len(b)+100)) // old content must not shine through
	if err := c.ExportFile(t.Context(), root, f, nil); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(f.Name()); !bytes.Equal(got, b) {
		t.Error("exported file differs")
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if err := c.ExportFile(t.Context(), root, null, nil); !errors.Is(err, lab.ErrRefused) {
		t.Errorf("export to a device: %v", err)
	}
}

func TestReader(t *testing.T) {
	c := openChunks(t, t.TempDir())
	b := disk(11, 5*chunk.Size+77)
	root, _ := mustImport(t, c, b)
	r, err := c.Reader(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := iotest.TestReader(r, b); err != nil {
		t.Error(err)
	}
	if _, err := c.Reader(chunk.Sum([]byte("no"))); !errors.Is(err, lab.ErrNotFound) {
		t.Errorf("unknown version: %v", err)
	}
}

func TestBrokenAndCancelledImportsLeaveNothing(t *testing.T) {
	dir := t.TempDir()
	c := openChunks(t, dir)
	b := disk(5, 8<<20)
	broken := errors.New("the pipe broke")
	_, _, err := c.Import(t.Context(), io.MultiReader(bytes.NewReader(b), iotest.ErrReader(broken)), nil)
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "8388608") {
		t.Errorf("broken input: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, _, err = c.Import(ctx, bytes.NewReader(b), func(done int64) {
		if done > 2<<20 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled import: %v", err)
	}
	if f := files(t, dir); len(f) != 0 || c.Total() != 0 || len(c.index) != 0 || c.writers != 0 {
		t.Errorf("left behind: %v, %d chunks, %d writers", f, len(c.index), c.writers)
	}
}

func TestPutChecksAndForgets(t *testing.T) {
	dir := t.TempDir()
	c := openChunks(t, dir)
	w, err := c.Writer()
	if err != nil {
		t.Fatal(err)
	}
	raw := []byte("a chunk that came over the wire")
	id, stored := chunk.Sum(raw), chunk.Pack(nil, raw)
	if _, err := w.Put(chunk.Sum([]byte("another")), stored); !errors.Is(err, lab.ErrDamaged) {
		t.Errorf("wrong chunk: %v", err)
	}
	for i, want := range []bool{true, false} {
		if fresh, err := w.Put(id, stored); err != nil || fresh != want {
			t.Errorf("put %d: %v, %v", i, fresh, err)
		}
	}
	if c.Has(id) {
		t.Error("visible before the commit")
	}
	if _, err := collect(t, c); !errors.Is(err, lab.ErrBusy) {
		t.Errorf("collect beside a writer: %v", err)
	}
	m := chunk.Manifest{Size: int64(len(raw)), IDs: []chunk.ID{id}}
	if _, err := c.PutManifest(m); !errors.Is(err, lab.ErrInvalid) {
		t.Errorf("manifest of chunks that are not here: %v", err)
	}
	root, err := w.CommitManifest(m)
	if err != nil || !c.Has(id) {
		t.Fatalf("commit: %v", err)
	}
	if err := w.Commit(); err == nil {
		t.Error("committed twice")
	}
	if err := w.Abort(); err != nil {
		t.Errorf("abort after commit: %v", err)
	}
	wantExport(t, c, root, raw)
	if got, err := c.Stored(id); err != nil || !bytes.Equal(got, stored) || c.StoredBytes(id) != int64(len(stored)) {
		t.Errorf("Stored = %d bytes, %v", len(got), err)
	}
	if _, err := c.Get(chunk.Sum([]byte("no")), nil); !errors.Is(err, lab.ErrNotFound) {
		t.Errorf("unknown chunk: %v", err)
	}
	if _, err := c.Manifest(chunk.Sum([]byte("no"))); !errors.Is(err, lab.ErrNotFound) {
		t.Errorf("unknown manifest: %v", err)
	}
}

func TestConcurrentImportsAndReads(t *testing.T) {
	dir := t.TempDir()
	c := openChunks(t, dir)
	shared := disk(6, 2<<20)
	first, _ := mustImport(t, c, shared)
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			b := append(bytes.Clone(shared), disk(uint64(100+i), 1<<20)...)
			m, _, err := c.Import(t.Context(), bytes.NewReader(b), nil)
			if err != nil {
				t.Error(err)
				return
			}
			var out bytes.Buffer
			if err := c.Export(t.Context(), m.Root(), &out, nil); err != nil || !bytes.Equal(out.Bytes(), b) {
				t.Errorf("import %d: %v", i, err)
			}
		})
		all.Go(func() {
			if err := c.Verify(t.Context(), first, nil); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

func TestCollectFreesWhatNobodyLists(t *testing.T) {
	dir := t.TempDir()
	c := openChunks(t, dir)
	a := disk(7, 6<<20)
	b := append(bytes.Clone(a[:1<<20]), disk(8, 6<<20)...) // shares a quarter or less with a
	ra, _ := mustImport(t, c, a)
	rb, _ := mustImport(t, c, b)
	if n, err := collect(t, c); n != 0 || err != nil {
		t.Errorf("collect with all listed: %d, %v", n, err)
	}
	if err := c.Remove(ra); err != nil {
		t.Fatal(err)
	}
	before := onDisk(t, dir)
	if err := c.Remove(ra); !errors.Is(err, lab.ErrNotFound) {
		t.Errorf("remove twice: %v", err)
	}
	freed, err := collect(t, c)
	if err != nil || freed <= 0 || onDisk(t, dir) != before-freed {
		t.Errorf("collect: freed %d of %d, %d left, %v", freed, before, onDisk(t, dir), err)
	}
	wantExport(t, c, rb, b)
	c.Close()
	c = openChunks(t, dir)
	wantExport(t, c, rb, b)
	if err := c.Remove(rb); err != nil {
		t.Fatal(err)
	}
	if _, err := collect(t, c); err != nil || c.Total() != 0 || len(files(t, dir)) != 0 {
		t.Errorf("after the last version: %d bytes, %v, %v", c.Total(), files(t, dir), err)
	}
	ra, st := mustImport(t, c, a)
	if st.NewChunks == 0 {
		t.Error("chunks that were freed count as present")
	}
	wantExport(t, c, ra, a)
}

func BenchmarkImport(b *testing.B) {
	data := disk(9, 64<<20)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		c, err := OpenChunks(b.TempDir())
		if err != nil {
			b.Fatal(err)
		}
		if _, _, err := c.Import(b.Context(), bytes.NewReader(data), nil); err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}

func TestAheadIsAHint(t *testing.T) {
	c := openChunks(t, t.TempDir())
	root, _ := mustImport(t, c, disk(80, 6*chunk.Size))
	mustImport(t, c, disk(81, 2*chunk.Size))
	ids := []chunk.ID{{}, {1}}
	for id := range c.index {
		ids = append(ids, id)
	}
	c.Ahead(ids)
	c.Ahead(nil)
	if err := c.Verify(t.Context(), root, nil); err != nil {
		t.Error(err)
	}
	c.Close()
	c.Ahead(ids)
}
