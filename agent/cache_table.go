package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"carte/lab/chunk"
)

// cacheTable is where everything lies in a cache's range, and how its table is written. From the beginning of the range:
//
//	one table, the other table, units of 16 KiB
//
// A table is a page and its entries, all numbers little endian:
//
//	0   16 bytes  magic, with the version of the format
//	16   8 bytes  where the range begins on the disk
//	24   8 bytes  its length
//	32   8 bytes  turn: the table that was written later has the higher one
//	40   4 bytes  entries
//	44   4 bytes  bytes in a unit
//	48  32 bytes  BLAKE3 of all this and the entries, computed over a field of zeros
//	4096  40 bytes for each entry, the one that was used longest ago first: chunk id, first unit, length of the stored form
//
// A table that lies in anything is no table. The turns go to the two places alternately, so a power cut while one is
// written leaves the other; that one may name units that have been used for other chunks since, which their hash tells.
type cacheTable struct {
	off, n int64 // the range
	most   int   // entries
	size   int64 // bytes in a table
	data   int64 // where the units begin on the disk
	units  int
	batch  int // units that are written together at most
}

const (
	cacheMagic = "carte.cache.1\n\x00\x00"
	entrySize  = 32 + 4 + 4
	pageSize   = 4096
	// maxCached is how many chunks a cache has at most, and perCached the bytes it has for each. Six Debian systems came to
	// 97 kB a chunk.
	maxCached = 256 << 10
	perCached = 96 << 10
)

// newCacheTable lays out a range. All that is read and written lies at multiples of a page, whatever off is.
func newCacheTable(off, n int64) cacheTable {
	t := cacheTable{off: off, n: n}
	from, to := (off+pageSize-1)&^(pageSize-1), (off+n)&^(pageSize-1)
	t.most = int(min(max(to-from, 0)/perCached, maxCached))
	t.size = pageSize + (int64(t.most)*entrySize+pageSize-1)&^(pageSize-1)
	t.data = from + (2*t.size+cacheUnit-1)&^(cacheUnit-1)
	t.units = int(max(to-t.data, 0) / cacheUnit)
	if t.units == 0 {
		t.most = 0
	}
	t.batch = min(max(t.units/4, unitsMost), batchMost)
	return t
}

// at returns the place of a run on the disk.
func (t cacheTable) at(r run) int64 { return t.data + int64(r.unit)*cacheUnit }

// place returns where the table of that turn lies.
func (t cacheTable) place(turn uint64) int64 {
	return (t.off+pageSize-1)&^(pageSize-1) + int64(turn%2)*t.size
}

func (t cacheTable) head(turn uint64, entries int) []byte {
	b := make([]byte, 0, 48)
	b = append(b, cacheMagic...)
	b = binary.LittleEndian.AppendUint64(b, uint64(t.off))
	b = binary.LittleEndian.AppendUint64(b, uint64(t.n))
	b = binary.LittleEndian.AppendUint64(b, turn)
	b = binary.LittleEndian.AppendUint32(b, uint32(entries))
	return binary.LittleEndian.AppendUint32(b, cacheUnit)
}

// store brings the data that was written so far onto the medium, and then a table, the chunk used longest ago first.
func (t cacheTable) store(d Disk, turn uint64, names []chunk.ID, runs []run) error {
	n := pageSize + len(names)*entrySize
	b := aligned((n + pageSize - 1) &^ (pageSize - 1))
	copy(b, t.head(turn, len(names)))
	for i, e := 0, b[pageSize:]; i < len(names); i, e = i+1, e[entrySize:] {
		copy(e, names[i][:])
		binary.LittleEndian.PutUint32(e[32:], runs[i].unit)
		binary.LittleEndian.PutUint32(e[36:], runs[i].n)
	}
	sum := chunk.Sum(b[:n])
	copy(b[48:], sum[:])
	if err := d.Sync(); err != nil {
		return fmt.Errorf("cache: sync before its table: %w", err)
	}
	if _, err := d.WriteAt(b, t.place(turn)); err != nil {
		return fmt.Errorf("cache: write its table at byte %d: %w", t.place(turn), err)
	}
	if err := d.Sync(); err != nil {
		return fmt.Errorf("cache: sync its table: %w", err)
	}
	return nil
}

// load hands the entries of the newest table that is whole to fill, and those of the other if fill takes them for wrong. It
// returns the turn of the table that was taken, 0 for none.
func (t cacheTable) load(d Disk, fill func(entries []byte) error) uint64 {
	if t.most == 0 {
		return 0
	}
	type found struct {
		turn    uint64
		entries int
	}
	var tables []found
	for turn := range uint64(2) {
		b := aligned(pageSize)
		if _, err := d.ReadAt(b, t.place(turn)); err != nil {
			continue
		}
		f := found{binary.LittleEndian.Uint64(b[32:]), int(binary.LittleEndian.Uint32(b[40:]))}
		if f.entries <= t.most && f.turn%2 == turn && string(b[:48]) == string(t.head(f.turn, f.entries)) {
			tables = append(tables, f)
		}
	}
	slices.SortFunc(tables, func(a, b found) int {
		if a.turn > b.turn {
			return -1
		}
		return 1
	})
	for _, f := range tables {
		n := pageSize + f.entries*entrySize
		b := aligned((n + pageSize - 1) &^ (pageSize - 1))
		if _, err := d.ReadAt(b, t.place(f.turn)); err != nil {
			continue
		}
		sum := chunk.ID(b[48:80])
		clear(b[48:80])
		if string(b[:48]) == string(t.head(f.turn, f.entries)) && chunk.Sum(b[:n]) == sum && fill(b[pageSize:n]) == nil {
			return f.turn
		}
	}
	return 0
}

// errTable says that a table which is whole cannot be true.
var errTable = errors.New("impossible entry")

// fill makes the empty cache what the entries of a table say. On an error the cache is empty.
func (c *cache) fill(entries []byte) error {
	n := len(entries) / entrySize
	for e := range slices.Chunk(entries, entrySize) {
		id := chunk.ID(e[:32])
		r := run{binary.LittleEndian.Uint32(e[32:]), binary.LittleEndian.Uint32(e[36:])}
		if id.IsZero() || r.n == 0 || r.n > chunk.MaxStored || !c.room.take(int(r.unit), r.units()) {
			c.clear()
			return errTable
		}
		c.lru.Add(id, r)
	}
	if c.lru.Len() != n { // a name that comes twice
		c.clear()
		return errTable
	}
	return nil
}

// wipeCache makes the range an empty cache, and leaves its data as it is.
func wipeCache(d Disk, off, n int64) error {
	t := newCacheTable(off, n)
	if t.most == 0 {
		return nil
	}
	for turn := range uint64(2) {
		if err := d.Zero(t.place(turn), pageSize); err != nil {
			return fmt.Errorf("cache: empty its table at byte %d: %w", t.place(turn), err)
		}
	}
	return nil
}
