package agent

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"carte/lab"
	"carte/lab/chunk"
)

// stock is chunks of many lengths in their stored form.
type stock struct {
	ids    []chunk.ID
	stored map[chunk.ID][]byte
}

func newStock(seed uint64, n int) stock {
	s := stock{stored: map[chunk.ID][]byte{}}
	r := rand.New(rand.NewPCG(seed, 7))
	for i := range n {
		raw := make([]byte, chunk.Size)
		copy(raw, noise(seed*1000+uint64(i), []int{1, 5000, 16<<10 - 1, 100_000, chunk.Size, 1 + r.IntN(chunk.Size)}[r.IntN(6)]))
		id := chunk.Sum(raw)
		s.ids, s.stored[id] = append(s.ids, id), chunk.Pack(nil, raw)
	}
	return s
}

func (s stock) any(r *rand.Rand) (chunk.ID, []byte) {
	id := s.ids[r.IntN(len(s.ids))]
	return id, s.stored[id]
}

const (
	cacheOff  = 128<<10 + 4096
	cacheSize = 6<<20 - 4096
)

// cacheDisk is a disk of noise with a place for a cache in it. outside fails when anything but that place was written.
func cacheDisk(seed uint64) *ramDisk { return newRAMDisk(noise(seed, cacheOff+cacheSize+256<<10)) }

func (d *ramDisk) outside(t *testing.T) {
	t.Helper()
	if d.low < cacheOff || d.high > cacheOff+cacheSize {
		t.Fatalf("written from %d to %d, the cache is %d to %d", d.low, d.high, cacheOff, cacheOff+cacheSize)
	}
}

func mustCache(t testing.TB, d Disk, off, n int64) *cache {
	t.Helper()
	c, err := openCache(d, off, n)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// sound compares the books of the cache with one another.
func (c *cache) sound(t *testing.T) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	seen, taken := newRoom(c.table.units), 0
	count := func(id chunk.ID, r run) {
		if !seen.take(int(r.unit), r.units()) {
			t.Fatalf("chunk %v lies on another, or outside", id)
		}
		taken += r.units()
	}
	runs := c.lru.Values()
	for i, id := range c.lru.Keys() {
		count(id, runs[i])
	}
	for id, w := range c.waiting {
		count(id, w.at)
	}
	if len(c.flying) == 0 && c.open == nil && taken != c.room.taken || c.lru.Len()+len(c.waiting) > c.table.most {
		t.Fatalf("%d units are used and %d are taken; %d chunks of %d", taken, c.room.taken, c.lru.Len(), c.table.most)
	}
}

// Random puts, gets, drops, flushes, reopenings and power cuts: what comes out was put in, or shows that it was not; without
// a power cut it always is right. Nothing else on the disk changes, and the limit is kept.
func TestCacheAgainstModel(t *testing.T) {
	s := newStock(1, 150)
	for seed := range uint64(9) {
		r := rand.New(rand.NewPCG(seed, 3))
		d := cacheDisk(seed)
		c := mustCache(t, d, cacheOff, cacheSize)
		model := map[chunk.ID]bool{} // put, and not dropped since
		cut, hits, stale := false, 0, 0
		for range 2500 {
			id, stored := s.any(r)
			switch p := r.IntN(1000); {
			case p < 450:
				if err := c.Put(id, stored); err != nil {
					t.Fatal(err)
				}
				if model[id] = true; !c.Has(id) {
					t.Fatal("put, and not there")
				}
			case p < 950:
				has := c.Has(id)
				got, err := c.Get(id, nil)
				if has != (err == nil) || err != nil && !errors.Is(err, lab.ErrNotFound) || err == nil && !model[id] {
					t.Fatalf("Has %v, Get %v", has, err)
				}
				if err != nil {
					break
				}
				hits++
				raw, err := chunk.UnpackAny(nil, got, id)
				if err != nil && !cut {
					t.Fatalf("without a power cut: %v", err)
				}
				if err != nil {
					stale++
					c.Drop(id)
					delete(model, id)
				} else if !bytes.Equal(got, stored) || chunk.Sum(raw) != id {
					t.Fatal("wrong bytes")
				}
			case p < 960:
				c.Drop(id)
				if delete(model, id); c.Has(id) {
					t.Fatal("dropped, and there")
				}
			case p < 980:
				if err := c.Flush(); err != nil {
					t.Fatal(err)
				}
			case p < 990:
				before, _, _ := c.Stats()
				if err := c.Close(); err != nil {
					t.Fatal(err)
				}
				c = mustCache(t, d, cacheOff, cacheSize)
				if after, _, _ := c.Stats(); after != before {
					t.Fatalf("%d chunks, and %d when opened again", before, after)
				}
			case seed%3 != 0 && p < 995: // every third disk never loses power
				d.outside(t)
				d, cut = d.cut(r), true
				c = mustCache(t, d, cacheOff, cacheSize)
				for _, id := range s.ids { // what was dropped after the last table may be back
					model[id] = true
				}
			}
			c.sound(t)
		}
		n, size, limit := c.Stats()
		if d.outside(t); size > limit || limit > cacheSize || n == 0 || size < limit/2 {
			t.Errorf("%d chunks in %d bytes of %d", n, size, limit)
		}
		t.Logf("seed %d: %d hits, %d proved wrong; %d chunks in %d of %d bytes", seed, hits, stale, n, size, limit)
	}
}

// The chunk that was used longest ago goes first, also after the cache was opened again, and being asked for is no use.
func TestCacheForgetsOldestFirst(t *testing.T) {
	d := cacheDisk(1)
	c := mustCache(t, d, cacheOff, cacheSize)
	stored := noise(2, 16*cacheUnit)
	name := func(i int) chunk.ID { return chunk.Sum(fmt.Append(nil, i)) }
	fits := c.table.units / 16
	put := func(i int) {
		if err := c.Put(name(i), stored); err != nil {
			t.Fatal(err)
		}
	}
	for i := range fits {
		put(i)
	}
	if err := c.Flush(); err != nil { // a chunk counts as used when it is written
		t.Fatal(err)
	}
	if _, err := c.Get(name(0), nil); err != nil {
		t.Fatal(err)
	}
	put(2) // again
	c.Has(name(1))
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = mustCache(t, d, cacheOff, cacheSize)
	var order []int
	for i := range fits {
		put(fits + i)
		for j := range fits {
			if !c.Has(name(j)) && !slices.Contains(order, j) {
				order = append(order, j)
			}
		}
	}
	want := []int{1}
	for i := 3; i < fits; i++ {
		want = append(want, i)
	}
	if want = append(want, 0, 2); !slices.Equal(order, want) {
		t.Errorf("gone in the order %v, want %v", order, want)
	}
}

// A disk that takes no writes makes errors, and a cache that goes on as soon as it does.
func TestCacheOnBrokenDisk(t *testing.T) {
	d := cacheDisk(1)
	c := mustCache(t, d, cacheOff, cacheSize)
	s := newStock(2, 60)
	for _, id := range s.ids[:10] {
		if err := c.Put(id, s.stored[id]); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	d.broken = errors.New("input/output error")
	failed := 0
	for _, id := range s.ids[10:] {
		if err := c.Put(id, s.stored[id]); err != nil {
			failed++
			if !errors.Is(err, d.broken) {
				t.Fatal(err)
			}
		}
		c.sound(t)
	}
	if err := c.Flush(); !errors.Is(err, d.broken) || failed == 0 {
		t.Fatalf("%d puts failed; flush: %v", failed, err)
	}
	if n, _, _ := mustCache(t, d, cacheOff, cacheSize).Stats(); n != 10 {
		t.Errorf("%d chunks on the disk, want those of the last flush", n)
	}
	d.broken = nil
	for _, id := range s.ids {
		if err := c.Put(id, s.stored[id]); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	c = mustCache(t, d, cacheOff, cacheSize)
	n, last := 0, s.ids[len(s.ids)-1]
	for _, id := range s.ids {
		if got, err := c.Get(id, nil); err == nil {
			if n++; !bytes.Equal(got, s.stored[id]) {
				t.Error("wrong bytes")
			}
		}
	}
	if d.outside(t); n < 20 || !c.Has(last) {
		t.Errorf("%d chunks after the disk came back", n)
	}
}

func TestCacheRefuses(t *testing.T) {
	d := newRAMDisk(make([]byte, 1<<20))
	for _, r := range [][2]int64{{-1, 10}, {0, -1}, {0, 1<<20 + 1}, {1 << 20, 1}, {1 << 62, 1 << 62}, {5, 1 << 20}} {
		if _, err := openCache(d, r[0], r[1]); !errors.Is(err, lab.ErrInvalid) {
			t.Errorf("%v: %v", r, err)
		}
	}
	s := newStock(3, 5)
	for n := int64(0); n < 1<<20; n += 4097 { // too small for much, at odd places
		c := mustCache(t, d, 1<<20-n, n)
		for _, id := range s.ids {
			if err := c.Put(id, s.stored[id]); err != nil {
				t.Fatal(err)
			}
			c.sound(t)
		}
		if err := errors.Join(c.Flush(), wipeCache(d, 1<<20-n, n)); err != nil {
			t.Fatal(err)
		}
		if d.high > 0 && d.low < 1<<20-n {
			t.Fatalf("a cache of %d bytes wrote at %d", n, d.low)
		}
	}
	c := mustCache(t, d, 0, 1<<20)
	for _, n := range []int{0, chunk.MaxStored + 1} {
		if err := c.Put(s.ids[0], make([]byte, n)); !errors.Is(err, lab.ErrInvalid) {
			t.Errorf("put of %d bytes: %v", n, err)
		}
	}
	if err := c.Put(chunk.ID{}, []byte{0, 0}); !errors.Is(err, lab.ErrInvalid) {
		t.Errorf("put of zeros: %v", err)
	}
}

// Many goroutines do everything at once.
func TestCacheConcurrently(t *testing.T) {
	d := cacheDisk(1)
	c := mustCache(t, d, cacheOff, cacheSize)
	s := newStock(4, 100)
	var all sync.WaitGroup
	for g := range uint64(8) {
		all.Go(func() {
			r := rand.New(rand.NewPCG(g, 1))
			buf := aligned(chunk.MaxStored + pageSize)
			for range 600 {
				id, stored := s.any(r)
				switch p := r.IntN(100); {
				case p < 45:
					if err := c.Put(id, stored); err != nil {
						t.Error(err)
					}
				case p < 95:
					got, err := c.Get(id, buf)
					if err == nil && !bytes.Equal(got, stored) || err != nil && !errors.Is(err, lab.ErrNotFound) {
						t.Errorf("%d bytes, %v", len(got), err)
					}
				case p < 98:
					c.Drop(id)
				default:
					if err := c.Flush(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	all.Wait()
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	c.sound(t)
	d.outside(t)
	n, _, _ := c.Stats()
	if m, _, _ := mustCache(t, d, cacheOff, cacheSize).Stats(); n != m || n == 0 {
		t.Errorf("%d chunks, %d when opened again", n, m)
	}
}

// Chunks that are put one after the other reach the disk in large pieces.
func TestCacheWritesLargePieces(t *testing.T) {
	d := newRAMDisk(make([]byte, 40<<20))
	c := mustCache(t, d, 0, 40<<20)
	total := 0
	for i := range 200 {
		stored := noise(uint64(i), 100_000)
		total += len(stored)
		if err := c.Put(chunk.Sum(stored), stored); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	if n := len(d.writes); n > total/(700<<10) {
		t.Errorf("%d writes for %d bytes", n, total)
	}
	for _, n := range d.writes {
		if n%pageSize != 0 {
			t.Errorf("a write of %d bytes", n)
		}
	}
}
