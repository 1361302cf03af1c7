package layout

import (
	"encoding/binary"
	"fmt"
)

// journal returns where the log of the journal lies, in bytes of the disk, when nothing in it is needed: its super block (in
// its first block) says with a start of 0 that all transactions have reached their places. The super block itself, and
// whatever else lies before the first block of the log, is needed. A file system without a journal of its own has none.
func (e *ext) journal() ([]Extent, string) {
	le, be := binary.LittleEndian, binary.BigEndian
	number := int64(le.Uint32(e.sb[0xe0:]))
	if e.compat&extJournal == 0 || number == 0 {
		return nil, ""
	}
	inode, why := e.inode(number)
	if why != "" {
		return nil, why
	}
	size := int64(le.Uint32(inode[4:])) | int64(le.Uint32(inode[0x6c:]))<<32
	blocks, why := e.blocksOf(inode, size/e.block)
	if why != "" {
		return nil, "its journal: " + why
	}
	if len(blocks) == 0 {
		return nil, "its journal is empty"
	}
	b := e.read(blocks[0].at*e.block, 1024)
	if b == nil || be.Uint32(b) != 0xc03b3998 || be.Uint32(b[4:]) != 3 && be.Uint32(b[4:]) != 4 || int64(be.Uint32(b[0xc:])) != e.block {
		return nil, "its journal is damaged"
	}
	if be.Uint32(b[4:]) == 4 && be.Uint32(b[0x28:])&0x18 != 0 { // check sums, version 2 or 3
		sum := be.Uint32(b[0xfc:])
		be.PutUint32(b[0xfc:], 0)
		if crc32c(^uint32(0), b) != sum {
			return nil, "its journal is damaged (check sum)"
		}
	}
	switch first, length, start := int64(be.Uint32(b[0x14:])), int64(be.Uint32(b[0x10:])), be.Uint32(b[0x1c:]); {
	case be.Uint32(b[0x20:]) != 0:
		return nil, "its journal was given up after an error; it must be checked first"
	case start != 0:
		return nil, "its journal holds something; it must be checked first"
	case first < 1 || length <= first || length > size/e.block:
		return nil, "its journal is damaged"
	default:
		return e.log(blocks, first, length), ""
	}
}

// A run is where blocks of a file lie.
type run struct{ logical, at, n int64 }

// log returns the places of the blocks first to length of a file.
func (e *ext) log(blocks []run, first, length int64) []Extent {
	var list []Extent
	for _, r := range blocks {
		from, to := max(r.logical, first), min(r.logical+r.n, length)
		if from < to {
			list = append(list, Extent{e.off + (r.at+from-r.logical)*e.block, (to - from) * e.block})
		}
	}
	return merged(list)
}

// inode returns the inode with that number.
func (e *ext) inode(number int64) ([]byte, string) {
	damaged := fmt.Sprintf("its inode %d is damaged", number)
	g := (number - 1) / e.inodes
	perBlock := e.block / e.descSize
	if g >= e.groups {
		return nil, damaged
	}
	d := e.read(e.descBlock(g/perBlock)*e.block+g%perBlock*e.descSize, int(e.descSize))
	if d == nil {
		return nil, damaged
	}
	x, why := e.group(d, g)
	if why != "" {
		return nil, why
	}
	b := e.read(x.table*e.block+(number-1)%e.inodes*e.inodeSize, int(e.inodeSize))
	if b == nil {
		return nil, damaged
	}
	if e.sums && !e.inodeSum(b, number) {
		return nil, damaged + " (check sum)"
	}
	return b, ""
}

// inodeSum checks an inode: the sum goes over its number, its generation and itself without the sum, of which the upper half
// is there only in an inode that is long enough.
func (e *ext) inodeSum(b []byte, number int64) bool {
	le := binary.LittleEndian
	c := append([]byte(nil), b...)
	sum, mask := uint32(le.Uint16(c[0x7c:])), uint32(0xffff)
	le.PutUint16(c[0x7c:], 0)
	if len(c) > 128 && le.Uint16(c[0x80:]) >= 4 {
		sum, mask = sum|uint32(le.Uint16(c[0x82:]))<<16, ^uint32(0)
		le.PutUint16(c[0x82:], 0)
	}
	got := crc32c(e.seed, le.AppendUint32(nil, uint32(number)))
	got = crc32c(crc32c(got, c[0x64:0x68]), c)
	return got&mask == sum
}

// blocksOf returns where the first n blocks of a file lie, without its holes, ascending. Blocks that only map others are not
// among them.
func (e *ext) blocksOf(inode []byte, n int64) ([]run, string) {
	w := &walk{ext: e, most: n}
	if binary.LittleEndian.Uint32(inode[0x20:])&0x80000 != 0 {
		w.extents(inode[0x28:0x28+60], 5)
	} else {
		w.pointers(inode[0x28:0x28+48], 0)
		for depth := range 3 {
			w.pointers(inode[0x28+48+4*depth:][:4], depth+1)
		}
	}
	return w.runs, w.why
}

// walk follows the map of a file. It looks at no more than 100 000 blocks of it.
type walk struct {
	*ext
	most, next int64 // blocks of the file; the one that comes next, where the map does not say
	runs       []run
	seen       int
	why        string
}

func (w *walk) fail() { w.why = "its map is damaged" }

func (w *walk) add(logical, at, n int64) {
	if i := len(w.runs) - 1; i >= 0 && (logical < w.runs[i].logical+w.runs[i].n || n <= 0) || at <= 0 || at+n > w.blocks {
		w.fail()
		return
	}
	if i := len(w.runs) - 1; i >= 0 && w.runs[i].logical+w.runs[i].n == logical && w.runs[i].at+w.runs[i].n == at {
		w.runs[i].n += n
		return
	}
	w.runs = append(w.runs, run{logical, at, n})
}

func (w *walk) load(at int64) []byte {
	if w.seen++; at <= 0 || at >= w.blocks || w.seen > 100_000 {
		w.fail()
		return nil
	}
	b := w.read(at*w.block, int(w.block))
	if b == nil {
		w.fail()
	}
	return b
}

// extents follows a node of a tree whose depth is below most.
func (w *walk) extents(b []byte, most int) {
	le := binary.LittleEndian
	n, depth := int(le.Uint16(b[2:])), int(le.Uint16(b[6:]))
	if le.Uint16(b) != 0xf30a || depth > most || 12+12*n > len(b) {
		w.fail()
		return
	}
	for i := 0; i < n && w.why == ""; i++ {
		x := b[12+12*i:][:12]
		if depth > 0 {
			if next := w.load(int64(le.Uint32(x[4:])) | int64(le.Uint16(x[8:]))<<32); next != nil {
				w.extents(next, depth-1)
			}
			continue
		}
		length := int64(le.Uint16(x[4:]))
		if length > 32768 { // allocated and not written
			length -= 32768
		}
		w.add(int64(le.Uint32(x)), int64(le.Uint32(x[8:]))|int64(le.Uint16(x[6:]))<<32, length)
	}
}

// pointers follows block numbers: of data at depth 0, else of blocks that hold block numbers.
func (w *walk) pointers(b []byte, depth int) {
	span := int64(1) // blocks of the file behind each
	for range depth {
		span *= w.block / 4
	}
	for ; len(b) >= 4 && w.next < w.most && w.why == ""; b = b[4:] {
		at := int64(binary.LittleEndian.Uint32(b))
		switch {
		case at == 0:
			w.next += span
		case depth == 0:
			w.add(w.next, at, 1)
			w.next++
		default:
			if next := w.load(at); next != nil {
				w.pointers(next, depth-1)
			}
		}
	}
}
