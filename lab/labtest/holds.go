package labtest

import (
	"fmt"
	"os"
	"testing"

	"carte/lab"
	"carte/lab/chunk"
	"carte/lab/layout"
	"carte/store"
)

// Holds says whether a disk holds a version: every byte that anybody needs, with the partition table as it was fitted to the
// disk. It returns the place that differs.
func Holds(t testing.TB, b *Bench, file string, v lab.Version) error {
	t.Helper()
	return HoldsAt(t, b.State.Chunks, file, 0, v)
}

// CameFrom says whether a disk, as it is, is what a version was captured from: as Holds, where the disk's own file systems say
// that nobody needs a byte it may be anything, and is zero in the version.
func CameFrom(t testing.TB, b *Bench, file string, v lab.Version) error {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	free, err := layout.Read(t.Context(), f, st.Size())
	if err != nil || len(free.Free) == 0 {
		t.Fatalf("nothing of %s is free: %v", file, err)
	}
	return holds(t, b.State.Chunks, file, 0, v, func(part []byte, off int64) { free.Blank(part, off) })
}

// HoldsAt is Holds for a version that begins at byte at of the disk.
func HoldsAt(t testing.TB, c *store.Chunks, file string, at int64, v lab.Version) error {
	t.Helper()
	return holds(t, c, file, at, v, func([]byte, int64) {})
}

func holds(t testing.TB, c *store.Chunks, file string, at int64, v lab.Version, blank func(part []byte, off int64)) error {
	t.Helper()
	m, err := c.Manifest(v.Root)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, chunk.Size)
	for i, id := range m.IDs {
		part := buf[:m.Len(i)]
		if _, err := f.ReadAt(part, at+int64(i)*chunk.Size); err != nil {
			t.Fatal(err)
		}
		if id == chunk.Free || chunk.Sum(part) == id { // also a chunk that is its base's, junk and all
			continue
		}
		if blank(part, at+int64(i)*chunk.Size); chunk.Sum(part) == id {
			continue
		}
		if was, _, _, ok, err := layout.Restore(part, 512, v.Bytes); i == 0 && ok && err == nil && chunk.Sum(was) == id {
			continue
		}
		return fmt.Errorf("%s is not %s at byte %d", file, v.Ref(), int64(i)*chunk.Size)
	}
	return nil
}
