package store

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"carte/lab"
	"carte/lab/chunk"
)

// rootSet is a set of them.
func rootSet(all ...chunk.ID) map[chunk.ID]bool {
	set := map[chunk.ID]bool{}
	for _, r := range all {
		set[r] = true
	}
	return set
}

// sweepBut collects all but what is referenced to.
func sweepBut(t *testing.T, c *Chunks, dry bool, referenced ...chunk.ID) lab.Collected {
	t.Helper()
	got, err := c.Collect(t.Context(), func() (map[chunk.ID]bool, error) { return rootSet(referenced...), nil }, dry)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// collect collects, as if there were a version of each manifest.
func collect(t *testing.T, c *Chunks) (int64, error) {
	got, err := c.Collect(t.Context(), func() (map[chunk.ID]bool, error) {
		roots, err := c.Roots()
		return rootSet(roots...), err
	}, false)
	return got.Bytes, err
}

// onDisk is how many bytes the files of a store have.
func onDisk(t *testing.T, dir string) (n int64) {
	t.Helper()
	for _, name := range files(t, dir) {
		st, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		n += st.Size()
	}
	return n
}

// Whatever was imported in whatever order and referred to or not: what is referred to stays whole, what a dry run says is what goes, and that is what
// the disk gains.
func TestCollectRandomly(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 11))
	rounds := 12
	if testing.Short() {
		rounds = 4
	}
	for round := range rounds {
		dir := t.TempDir()
		c := openChunks(t, dir)
		parts := make([][]byte, 9)
		for i := range parts {
			parts[i] = disk(uint64(round*10+i), 1+r.IntN(4*chunk.Size))
			parts[i] = append(parts[i], make([]byte, (chunk.Size-len(parts[i])%chunk.Size)%chunk.Size)...)
		}
		kept, need := map[chunk.ID][]byte{}, []chunk.ID{}
		for range 8 {
			var b []byte
			for range 1 + r.IntN(4) {
				b = append(b, parts[r.IntN(len(parts))]...)
			}
			root, _ := mustImport(t, c, b)
			c.Settle(root)
			if _, ok := kept[root]; !ok && r.IntN(2) == 0 {
				kept[root] = b
				need = append(need, root)
			}
		}
		before := onDisk(t, dir)
		dry := sweepBut(t, c, true, need...)
		if onDisk(t, dir) != before {
			t.Fatal("a dry run has changed the files")
		}
		wet := sweepBut(t, c, false, need...)
		if got := before - onDisk(t, dir); got != wet.Bytes || dry.Bytes != wet.Bytes || dry.Chunks != wet.Chunks || dry.Manifests != wet.Manifests {
			t.Errorf("round %d: the disk gained %d; dry %+v; wet %+v", round, got, dry, wet)
		}
		for range 2 {
			if roots, _ := c.Roots(); len(roots) != len(kept) {
				t.Errorf("round %d: %d manifests, want %d", round, len(roots), len(kept))
			}
			for root, b := range kept {
				wantExport(t, c, root, b)
			}
			c.Close()
			c = openChunks(t, dir)
		}
		if again := sweepBut(t, c, false, need...); again.Bytes != 0 || again.Chunks != 0 {
			t.Errorf("round %d: the second time: %+v", round, again)
		}
		if all := sweepBut(t, c, false); len(files(t, dir)) != 0 {
			t.Errorf("round %d: nothing is needed, and there are %v: %+v", round, files(t, dir), all)
		}
	}
}

// What was put in this process and is not said to be for anything stays; also what was there before.
func TestCollectLeavesWhatIsUnderWay(t *testing.T) {
	dir := t.TempDir()
	c := openChunks(t, dir)
	b := disk(40, 1<<20)
	root, _ := mustImport(t, c, b)
	if got := sweepBut(t, c, false); got.Young != 1 || got.Manifests != 0 {
		t.Errorf("imported, no row yet: %+v", got)
	}
	mustImport(t, c, b) // somebody else, the same bytes
	c.Settle(root)      // the first was refused
	if got := sweepBut(t, c, false); got.Young != 1 {
		t.Errorf("one of two has not said what for: %+v", got)
	}
	wantExport(t, c, root, b)
	c.fresh[root] = claim{1, time.Now().Add(-2 * grace)} // nobody settled it, for two hours
	if got := sweepBut(t, c, true); got.Manifests != 1 {
		t.Errorf("after the grace: %+v", got)
	}
	mustImport(t, c, b)
	c.Close()
	c = openChunks(t, dir) // after a restart nobody is under way
	if got := sweepBut(t, c, false); got.Manifests != 1 || len(files(t, dir)) != 0 {
		t.Errorf("after a restart: %+v, %v", got, files(t, dir))
	}
}

// Chunks that come in several requests before their manifest.
func TestCollectLeavesChunksThatWaitForTheirManifest(t *testing.T) {
	c := openChunks(t, t.TempDir())
	raw := []byte("a chunk of a capture")
	id := chunk.Sum(raw)
	w, err := c.Writer()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Put(id, chunk.Pack(nil, raw)); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	if got := sweepBut(t, c, false); got.Chunks != 0 || got.Slack == 0 || len(got.Notes) != 1 {
		t.Errorf("%+v", got)
	}
	root, err := c.PutManifest(chunk.Manifest{Size: int64(len(raw)), IDs: []chunk.ID{id}})
	if err != nil {
		t.Fatal(err)
	}
	wantExport(t, c, root, raw)
}

// A chunk that somebody was told not to send is there when the manifest comes.
func TestCollectLeavesWhatWasPromised(t *testing.T) {
	c := openChunks(t, t.TempDir())
	b := disk(43, 6*chunk.Size)
	root, _ := mustImport(t, c, b)
	c.Settle(root)
	m, err := c.Manifest(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range m.IDs {
		if !c.Rely(id) {
			t.Fatalf("chunk %v is not here", id)
		}
	}
	if got := sweepBut(t, c, false); got.Manifests != 1 || got.Chunks != 0 {
		t.Errorf("%+v", got)
	}
	if _, err := c.PutManifest(m); err != nil {
		t.Fatal(err)
	}
	wantExport(t, c, root, b)
	c.Settle(root)
	if got := sweepBut(t, c, false); got.Chunks == 0 || c.Rely(m.IDs[0]) && !m.IDs[0].IsZero() {
		t.Errorf("promised for ever: %+v", got)
	}
}

func TestCollectStopsAtAManifestItCannotRead(t *testing.T) {
	dir := t.TempDir()
	c := openChunks(t, dir)
	a, _ := mustImport(t, c, disk(41, 1<<20))
	b, _ := mustImport(t, c, disk(42, 1<<20))
	c.Settle(a)
	c.Settle(b)
	flip(t, c.manifestPath(b), 70)
	before := files(t, dir)
	_, err := c.Collect(t.Context(), func() (map[chunk.ID]bool, error) { return rootSet(b), nil }, false)
	if !errors.Is(err, lab.ErrDamaged) || len(files(t, dir)) != len(before) {
		t.Errorf("%v; %v left of %v", err, files(t, dir), before)
	}
	if got := sweepBut(t, c, false, a); got.Manifests != 1 {
		t.Errorf("the damaged one is not needed: %+v", got)
	}
}

// A pack with damage among what is needed is not written anew: the copy would count as newer than a good one.
func TestCollectLeavesDamagedPacks(t *testing.T) {
	dir := t.TempDir()
	c := openChunks(t, dir)
	noise := make([]byte, 8*chunk.Size)
	rand.NewChaCha8([32]byte{44}).Read(noise)
	all, _ := mustImport(t, c, noise)
	part, _ := mustImport(t, c, noise[:chunk.Size])
	c.Settle(all)
	c.Settle(part)
	flip(t, packPath(c.packDir(), 0), c.index[chunk.Sum(noise[:chunk.Size])].off+9)
	got := sweepBut(t, c, false, part)
	if got.Chunks != 0 || got.Slack == 0 || len(got.Notes) != 1 {
		t.Errorf("%+v", got)
	}
	if err := c.Verify(t.Context(), part, nil); !errors.Is(err, lab.ErrDamaged) {
		t.Errorf("verify: %v", err)
	}
	mustImport(t, c, noise[:chunk.Size])
	if got := sweepBut(t, c, false, part); got.Chunks != 7 {
		t.Errorf("after it was mended: %+v", got)
	}
	wantExport(t, c, part, noise[:chunk.Size])
}

// Imports, removals and collections at once: no version loses a chunk. A row is said to be there as a desk does it: after the manifest, then settled.
func TestImportsAndCollectionsAtOnce(t *testing.T) {
	c := openChunks(t, t.TempDir())
	var mu sync.Mutex
	rows := map[chunk.ID][]byte{}
	parts := make([][]byte, 6)
	for i := range parts {
		parts[i] = disk(uint64(60+i), chunk.Size)
	}
	var importers, collectors sync.WaitGroup
	var over atomic.Bool
	var collections, freed atomic.Int64
	var turn sync.RWMutex // a collection begins when nothing is being written, and imports go on as soon as it has
	collectors.Go(func() {
		for !over.Load() {
			turn.Lock()
			begun := sync.OnceFunc(turn.Unlock)
			got, err := c.Collect(t.Context(), func() (map[chunk.ID]bool, error) {
				begun()
				mu.Lock()
				defer mu.Unlock()
				set := map[chunk.ID]bool{}
				for root := range rows {
					set[root] = true
				}
				return set, nil
			}, false)
			begun()
			if err == nil {
				collections.Add(1)
				freed.Add(got.Bytes)
			} else if !errors.Is(err, lab.ErrBusy) {
				t.Error(err)
				return
			}
		}
	})
	for n := range 3 {
		importers.Go(func() {
			r := rand.New(rand.NewPCG(uint64(n), 5))
			for range 60 {
				var b []byte
				for range 1 + r.IntN(5) {
					b = append(b, parts[r.IntN(len(parts))]...)
				}
				turn.RLock()
				m, _, err := c.Import(t.Context(), bytes.NewReader(b), nil)
				turn.RUnlock()
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				rows[m.Root()] = b
				mu.Unlock()
				c.Settle(m.Root())
				mu.Lock()
				for root := range rows { // and an older one goes
					if len(rows) > 3 {
						delete(rows, root)
					}
				}
				mu.Unlock()
			}
		})
	}
	importers.Wait()
	over.Store(true)
	collectors.Wait()
	for root, b := range rows {
		wantExport(t, c, root, b)
	}
	if collections.Load() < 3 || freed.Load() == 0 {
		t.Errorf("%d collections freed %d bytes", collections.Load(), freed.Load())
	}
	t.Logf("%d collections freed %d bytes beside 180 imports", collections.Load(), freed.Load())
}

// Two imports of the same bytes at once keep them once, and neither calls that damage. Of imports of nearly the same, what is twice goes with the
// next collection, which says so.
func TestCopiesOfWritersAtOnce(t *testing.T) {
	c := openChunks(t, t.TempDir())
	var ids []chunk.ID
	begin := func() *Writer {
		w, err := c.Writer()
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	put := func(w *Writer, blocks ...[]byte) (m chunk.Manifest) {
		for _, b := range blocks {
			id := chunk.Sum(b)
			if fresh, err := w.Put(id, chunk.Pack(nil, b)); err != nil || !fresh {
				t.Fatal(fresh, err)
			}
			m.IDs, m.Size = append(m.IDs, id), m.Size+int64(len(b))
		}
		ids = append(ids, m.IDs...)
		return m
	}
	a, b, x := noise(chunk.Size, 1), noise(chunk.Size, 2), noise(chunk.Size, 3)
	first, second, third := begin(), begin(), begin()
	m := put(first, a, b)
	put(second, a, b)
	other := put(third, a, b, x)
	if _, err := first.CommitManifest(m); err != nil || first.stored != 2 || first.mended != 0 {
		t.Fatalf("the first: %d stored, %d mended, %v", first.stored, first.mended, err)
	}
	before := c.Total()
	if _, err := second.CommitManifest(m); err != nil || second.stored != 0 || second.mended != 0 || c.Total() != before {
		t.Errorf("the second: %d stored, %d mended, %d bytes more, %v", second.stored, second.mended, c.Total()-before, err)
	}
	if _, err := third.CommitManifest(other); err != nil || third.stored != 3 || third.mended != 0 {
		t.Errorf("the third: %d stored, %d mended, %v", third.stored, third.mended, err)
	}
	got := sweepBut(t, c, false, m.Root(), other.Root())
	if got.Copies < 2*chunk.Size || got.Copies > got.Bytes || got.Chunks != 0 || len(got.Notes) == 0 || !strings.Contains(got.Notes[len(got.Notes)-1], "second copies") {
		t.Errorf("collected %+v", got)
	}
	for _, id := range ids {
		if _, err := c.Get(id, nil); err != nil {
			t.Error(err)
		}
	}
}
