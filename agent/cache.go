package agent

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"carte/lab"
	"carte/lab/chunk"
)

// A cache keeps chunks in their stored form in a range of a disk, and gives up those that were used longest ago when it is
// full. It outlives the process from one Flush to the next.
//
// It proves nothing: whoever takes a chunk out unpacks it, which hashes the very buffer that is used, and drops it when it
// is not what its name says. So whatever happened to the disk, by a power cut or by the user's system, costs a chunk that is
// fetched again and never a wrong byte, and nothing has to be in order but this: a chunk is on the medium before the table
// that names it.
//
// The range holds two tables and the chunks. The tables are written in turn, each as a whole, so one of them is always
// whole (see cacheTable). A chunk lies in a run of units of 16 KiB. Chunks are gathered and written as many units at once;
// until then they are had from memory.
//
// All methods may be called from any number of goroutines; none holds the lock while it waits for the disk. Memory: about
// 170 bytes for each chunk, of which there are at most maxCached, and 1 MiB for each goroutine that writes.
type cache struct {
	disk  Disk
	table cacheTable

	flushing sync.Mutex // held by the one that writes a table

	mu      sync.Mutex
	lru     *simplelru.LRU[chunk.ID, run]
	room    room
	waiting map[chunk.ID]waiting // chunks that are not on the disk yet
	open    *batch               // takes the next chunk; nil: none yet
	flying  []*batch             // being written
	turn    uint64               // of the table that was written last
	changed bool                 // since that table was written
}

const (
	cacheUnit = 16 << 10
	batchMost = 64 // units
	unitsMost = (chunk.MaxStored + cacheUnit - 1) / cacheUnit
)

// A run is where a chunk lies: n bytes from the beginning of a unit on.
type run struct{ unit, n uint32 }

func (r run) units() int { return (int(r.n) + cacheUnit - 1) / cacheUnit }

// A batch is a run of units that are written together.
type batch struct {
	run          // n grows
	buf   []byte // aligned
	names []chunk.ID
	runs  []run
	done  chan struct{} // closed when it is written, or was not
	err   error         // valid from then on
}

type waiting struct {
	*batch
	at run
}

var batchBuffers = sync.Pool{New: func() any { return new(batchBuffer{aligned(batchMost * cacheUnit)}) }}

type batchBuffer struct{ b []byte }

// openCache opens the cache in n bytes of d from off on. What is not this range's cache is an empty one, and stays as it is
// on the disk until the first Put. Nothing outside the range is ever read or written. A table that cannot be read is none.
//
// lab.ErrInvalid: the range is not on the disk. A range that is too short for anything is a cache that keeps nothing.
func openCache(d Disk, off, n int64) (*cache, error) {
	if off < 0 || n < 0 || off > d.Size()-n {
		return nil, fmt.Errorf("cache of %d bytes at byte %d of a disk of %d: %w", n, off, d.Size(), lab.ErrInvalid)
	}
	c := &cache{disk: d, table: newCacheTable(off, n)}
	c.clear()
	c.turn = c.table.load(d, c.fill)
	return c, nil
}

// clear forgets everything.
func (c *cache) clear() {
	lru, err := simplelru.NewLRU(max(c.table.most, 1), func(_ chunk.ID, r run) { c.room.give(int(r.unit), r.units()) })
	if err != nil {
		panic("BUG: " + err.Error())
	}
	c.lru, c.room, c.waiting = lru, newRoom(c.table.units), map[chunk.ID]waiting{}
}

// Has reports whether the chunk is there. It does not count as use.
func (c *cache) Has(id chunk.ID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.has(id)
}

func (c *cache) has(id chunk.ID) bool {
	_, ok := c.waiting[id]
	return ok || c.lru.Contains(id)
}

// Get reads a chunk in its stored form, unproven. It lies in buf where that has room; a buf that is aligned and has room for
// chunk.MaxStored, rounded up to 4 KiB, lets the disk be read directly. lab.ErrNotFound: it is not there.
func (c *cache) Get(id chunk.ID, buf []byte) (stored []byte, err error) {
	c.mu.Lock()
	if w, ok := c.waiting[id]; ok {
		defer c.mu.Unlock()
		from := int(w.at.unit-w.unit) * cacheUnit
		return append(buf[:0], w.buf[from:from+int(w.at.n)]...), nil
	}
	r, ok := c.lru.Get(id)
	c.changed = c.changed || ok
	c.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("cache: chunk %v: %w", id, lab.ErrNotFound)
	}
	whole := (int(r.n) + pageSize - 1) &^ (pageSize - 1)
	if cap(buf) < whole {
		buf = aligned(whole)
	}
	if _, err := c.disk.ReadAt(buf[:whole], c.table.at(r)); err != nil {
		c.Drop(id)
		return nil, fmt.Errorf("cache: read chunk %v at byte %d: %w", id, c.table.at(r), err)
	}
	// While it was read it may have had to make room.
	c.mu.Lock()
	defer c.mu.Unlock()
	if now, ok := c.lru.Peek(id); !ok || now != r {
		return nil, fmt.Errorf("cache: chunk %v: %w", id, lab.ErrNotFound)
	}
	return buf[:r.n], nil
}

// Drop gives up a chunk that was proved wrong.
func (c *cache) Drop(id chunk.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, id) // its units are given back once they are written
	if c.lru.Remove(id) {
		c.changed = true
	}
}

// Put keeps a chunk in its stored form, which the caller has proven; stored may be changed when it returns. A chunk that is
// there already counts as used; one that is new does when it is written. An error means that some chunks, not only this one,
// are not kept; the cache stays usable.
func (c *cache) Put(id chunk.ID, stored []byte) error {
	if len(stored) == 0 || len(stored) > chunk.MaxStored || id.IsZero() {
		return fmt.Errorf("cache: chunk %v of %d bytes: %w", id, len(stored), lab.ErrInvalid)
	}
	c.mu.Lock()
	full := c.stage(id, stored)
	c.mu.Unlock()
	return c.write(full)
}

// stage copies a chunk into the open batch. It returns the batch that has to be written now, nil for none.
func (c *cache) stage(id chunk.ID, stored []byte) (full *batch) {
	if c.has(id) {
		c.lru.Get(id)
		c.changed = true
		return nil
	}
	r := run{n: uint32(len(stored))}
	unit, ok := c.place(r.units())
	if !ok { // too long, or nothing is left to give up: all is being written
		return c.seal()
	}
	r.unit = uint32(unit)
	if b := c.open; b != nil && (int(b.unit)+b.units() != unit || b.units()+r.units() > c.table.batch) {
		full = c.seal()
	}
	if c.open == nil {
		buf := batchBuffers.Get().(*batchBuffer).b
		c.open = &batch{run: run{unit: r.unit}, buf: buf, done: make(chan struct{})}
	}
	b := c.open
	to := b.buf[b.n:][:r.units()*cacheUnit]
	clear(to[copy(to, stored):])
	b.n += uint32(len(to))
	b.names, b.runs = append(b.names, id), append(b.runs, r)
	c.waiting[id] = waiting{b, r}
	return full
}

// place takes k units that lie side by side, and gives up old chunks until there are so many.
func (c *cache) place(k int) (unit int, ok bool) {
	for k <= c.table.units {
		if c.lru.Len()+len(c.waiting) < c.table.most {
			if unit, ok := c.room.find(k); ok {
				return unit, c.room.take(unit, k)
			}
		}
		if _, _, ok := c.lru.RemoveOldest(); !ok {
			break
		}
		c.changed = true
	}
	return 0, false
}

// seal closes the open batch: whoever gets it writes it.
func (c *cache) seal() *batch {
	b := c.open
	if b != nil {
		c.open, c.flying = nil, append(c.flying, b)
	}
	return b
}

// write writes a sealed batch; from then on its chunks can be found on the disk. On an error they are given up.
func (c *cache) write(b *batch) error {
	if b == nil {
		return nil
	}
	_, err := c.disk.WriteAt(b.buf[:b.n], c.table.at(b.run))
	if err != nil {
		err = fmt.Errorf("cache: write %d bytes at byte %d: %w", b.n, c.table.at(b.run), err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, id := range b.names {
		w, ok := c.waiting[id]
		ok = ok && w.batch == b // or else it was dropped in the meantime, and perhaps put again
		if ok {
			delete(c.waiting, id)
		}
		if ok && err == nil {
			c.lru.Add(id, b.runs[i])
			c.changed = true
		} else {
			c.room.give(int(b.runs[i].unit), b.runs[i].units())
		}
	}
	c.flying = slices.DeleteFunc(c.flying, func(o *batch) bool { return o == b })
	batchBuffers.Put(&batchBuffer{b.buf})
	b.buf, b.err = nil, err
	close(b.done)
	return err
}

// Flush brings everything that was put onto the medium, and then the table that names it. On an error the table before is
// still there, and the next Flush tries again.
func (c *cache) Flush() error {
	c.flushing.Lock()
	defer c.flushing.Unlock()
	c.mu.Lock()
	flying := slices.Clone(c.flying)
	last := c.seal()
	c.mu.Unlock()
	err := c.write(last)
	for _, b := range flying {
		<-b.done
		err = errors.Join(err, b.err)
	}
	if err != nil {
		return err
	}
	c.mu.Lock()
	changed, turn, names, runs := c.changed, c.turn+1, c.lru.Keys(), c.lru.Values()
	c.changed = false
	c.mu.Unlock()
	if !changed {
		return nil
	}
	if err = c.table.store(c.disk, turn, names, runs); err == nil {
		c.mu.Lock()
		c.turn = turn
		c.mu.Unlock()
		return nil
	}
	c.mu.Lock()
	c.changed = true
	c.mu.Unlock()
	return err
}

// Close is the last Flush. The disk stays open; it is the caller's.
func (c *cache) Close() error { return c.Flush() }

// Stats returns how many chunks are there, the bytes that they take, and how many they may take.
func (c *cache) Stats() (chunks int, bytes, limit int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lru.Len() + len(c.waiting), int64(c.room.taken) * cacheUnit, int64(c.table.units) * cacheUnit
}
