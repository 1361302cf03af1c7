package labtest_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"carte/lab"
	"carte/lab/chunk"
	"carte/lab/labtest"
	"carte/netboot"
)

// What the store has lost comes back from a machine that has it, with its next boot: by the disk that holds the image still,
// and, where another image is to be laid, before that is written over it.
func TestLostChunksComeBackFromAMachine(t *testing.T) {
	for _, next := range []string{"a", "b"} {
		t.Run("then boots "+next, func(t *testing.T) {
			b := labtest.New(t, netboot.Config{})
			a := labtest.Import(t, b, "a", lab.FormDisk, labtest.Image(24<<20, 1))
			labtest.Import(t, b, "b", lab.FormDisk, labtest.Image(24<<20, 2))
			sim := labtest.Metal(t, b, 0, 64<<20)
			bootOnce(t, b, sim, "a")

			hurt := flipChunks(t, b, a, 5)
			got, err := b.Fsck(t.Context(), nil)
			if err != nil || got.Damaged != len(hurt) || got.Asked != len(hurt) || got.Mended != 0 || len(got.Broken) != len(hurt) {
				t.Fatalf("fsck: %+v, %v; want %d damaged", got, err, len(hurt))
			}
			bootOnce(t, b, sim, next)
			got, err = b.Fsck(t.Context(), nil)
			if err != nil || len(got.Broken) != 0 || got.Damaged != 0 || got.Asked != 0 {
				t.Errorf("fsck after the boot: %+v, %v", got, err)
			}
			if err := b.Verify(t.Context(), a.Ref(), nil); err != nil {
				t.Error(err)
			}
		})
	}
}

// flipChunks damages n chunks of a version in the packs, and returns which.
func flipChunks(t *testing.T, b *labtest.Bench, v lab.Version, n int) (hurt []chunk.ID) {
	t.Helper()
	m, err := b.State.Chunks.Manifest(v.Root)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(3, uint64(n)))
	packs, err := filepath.Glob(filepath.Join(b.State.Dir, "chunks/packs/*.pack"))
	if err != nil {
		t.Fatal(err)
	}
	for len(hurt) < n {
		id := m.IDs[r.IntN(len(m.IDs))]
		if id.Implied() || slices.Contains(hurt, id) {
			continue
		}
		stored, err := b.State.Chunks.Stored(id)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range packs {
			flipIn(t, path, stored)
		}
		hurt = append(hurt, id)
	}
	return hurt
}

// flipIn changes a byte in the middle of some bytes of a file, wherever they are.
func flipIn(t *testing.T, path string, what []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, what)
	if at < 0 {
		return
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mid := at + len(what)/2
	if _, err := f.WriteAt([]byte{b[mid] ^ 0x20}, int64(mid)); err != nil {
		t.Fatal(err)
	}
}
