package agent

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"carte/lab/chunk"
)

// fuzzSize is of a cache whose tables are two pages each.
const fuzzSize = 2 << 20

// FuzzCache writes what it is given over a cache, at a place in its range, and can make the check sums of the tables fit
// again, which no accident does. Whatever comes of it: nothing outside the range is written, what is handed out is right or
// unpacks to an error, and the cache goes on.
func FuzzCache(f *testing.F) {
	s := newStock(5, 12)
	base := newRAMDisk(make([]byte, 4096+fuzzSize+4096))
	filled := mustCache(f, base, 4096, fuzzSize)
	for _, id := range s.ids[:8] {
		if err := filled.Put(id, s.stored[id]); err != nil {
			f.Fatal(err)
		}
	}
	if err := filled.Flush(); err != nil {
		f.Fatal(err)
	}
	table := filled.table
	at := func(turn uint64, entry, field int) uint32 {
		return uint32(table.place(turn)-4096) + pageSize + uint32(entry*entrySize+field)
	}
	entry := func(i int) []byte { return base.b[table.place(1)+pageSize+int64(i*entrySize):][:entrySize] }
	f.Add(uint32(0), []byte{}, false)
	f.Add(at(1, 0, 0), entry(1), true)                                       // a name that comes twice, and units too
	f.Add(at(1, 2, 0), entry(1)[:32], true)                                  // a name that comes twice
	f.Add(at(1, 0, 32), entry(1)[32:], true)                                 // units that are used twice
	f.Add(at(1, 0, 32), []byte{255, 255, 255, 255}, true)                    // far outside
	f.Add(at(1, 0, 36), []byte{255, 255, 255, 255}, true)                    // far too long
	f.Add(at(1, 0, 36), []byte{0, 0, 0, 0}, true)                            // nothing
	f.Add(at(1, 0, 36), []byte{7, 0, 0, 0}, true)                            // too short
	f.Add(at(1, 0, 0), make([]byte, 32), true)                               // zeros' name
	f.Add(at(1, 0, 0)-pageSize+40, []byte{255, 255, 255, 255}, true)         // entries
	f.Add(at(1, 0, 0)-pageSize+32, bytes.Repeat([]byte{255}, 8), true)       // the last turn there is
	f.Add(uint32(table.data-4096), bytes.Repeat([]byte{1}, cacheUnit), true) // a chunk
	f.Fuzz(func(t *testing.T, where uint32, what []byte, fits bool) {
		d := newRAMDisk(bytes.Clone(base.b))
		where %= fuzzSize
		copy(d.b[4096+where:4096+fuzzSize], what)
		for turn := range uint64(2) {
			b := d.b[table.place(turn):]
			if n := pageSize + int(binary.LittleEndian.Uint32(b[40:]))*entrySize; fits && n <= int(table.size) {
				clear(b[48:80])
				sum := chunk.Sum(b[:n])
				copy(b[48:], sum[:])
			}
		}
		c := mustCache(t, d, 4096, fuzzSize)
		for range 2 {
			c.sound(t)
			for i, id := range s.ids {
				if got, err := c.Get(id, nil); err == nil {
					raw, err := chunk.UnpackAny(nil, got, id)
					if err == nil && chunk.Sum(raw) != id {
						t.Fatal("wrong bytes")
					}
					if err != nil {
						c.Drop(id)
					}
				}
				if i%3 == 0 {
					if err := c.Put(id, s.stored[id]); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := c.Flush(); err != nil {
				t.Fatal(err)
			}
			last := s.ids[9]
			if got, err := c.Get(last, nil); err != nil || !bytes.Equal(got, s.stored[last]) {
				t.Fatalf("what was put last: %d bytes, %v", len(got), err)
			}
			n, _, _ := c.Stats()
			c = mustCache(t, d, 4096, fuzzSize)
			if m, _, _ := c.Stats(); m != n && len(what) == 0 {
				t.Fatalf("%d chunks, %d when opened again", n, m)
			}
		}
		if d.low < 4096 || d.high > 4096+fuzzSize {
			t.Fatalf("written from %d to %d", d.low, d.high)
		}
	})
}

// fullCache is a cache of 16 GiB whose table has no room for one more chunk.
func fullCache(b *testing.B) (Disk, int64) {
	const n = 16 << 30
	d, _ := sparseDisk(b, n)
	table := newCacheTable(0, n)
	names, runs := make([]chunk.ID, table.most), make([]run, table.most)
	for i := range names {
		binary.LittleEndian.PutUint64(names[i][:], uint64(i)*0x9e3779b97f4a7c15+1)
		runs[i] = run{uint32(i * 5), 5 * cacheUnit}
	}
	if err := table.store(d, 1, names, runs); err != nil {
		b.Fatal(err)
	}
	return d, n
}

func BenchmarkCacheOpen(b *testing.B) {
	d, n := fullCache(b)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	held := mustCache(b, d, 0, n)
	runtime.GC()
	runtime.ReadMemStats(&after)
	each := float64(after.HeapAlloc-before.HeapAlloc) / float64(held.table.most)
	runtime.KeepAlive(held)
	var longest time.Duration
	for b.Loop() {
		began := time.Now()
		c := mustCache(b, d, 0, n)
		longest = max(longest, time.Since(began))
		if got, _, _ := c.Stats(); got != c.table.most {
			b.Fatal(got)
		}
	}
	b.ReportMetric(float64(longest.Milliseconds()), "ms-longest")
	b.ReportMetric(each, "B/chunk")
}

func BenchmarkCacheFlush(b *testing.B) {
	d, n := fullCache(b)
	c := mustCache(b, d, 0, n)
	for b.Loop() {
		c.Drop(c.lru.Keys()[0])
		if err := c.Flush(); err != nil {
			b.Fatal(err)
		}
	}
}

// Chunks of 100 kB into a cache that is full: each makes others go.
func BenchmarkCachePut(b *testing.B) {
	for _, size := range []int{20_000, 100_000, chunk.Size + 1} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			d, path := sparseDisk(b, 256<<20)
			c := mustCache(b, d, 0, d.Size())
			stored := noise(1, size)
			b.SetBytes(int64(size))
			i := uint64(0)
			for b.Loop() {
				i++
				var id chunk.ID
				binary.LittleEndian.PutUint64(id[:], i)
				if err := c.Put(id, stored[:size-int(i%2000)]); err != nil {
					b.Fatal(err)
				}
			}
			_, bytes, limit := c.Stats()
			b.ReportMetric(float64(bytes)/float64(limit), "used")
			os.Remove(path)
		})
	}
}
