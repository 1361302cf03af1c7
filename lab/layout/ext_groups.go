package layout

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/bits"
)

// A group is one descriptor.
type group struct {
	bitmap, inodeMap, table int64 // block numbers
	free                    int64 // blocks
	sum                     uint32
	uninit                  bool // the bitmap was never written: only metadata is taken
}

// free reads all groups and returns what the bitmaps leave free, in bytes of the disk, and notes where the metadata is. Two
// things that must agree are compared: check sums, where there are any, and the number of free blocks in the descriptor.
func (e *ext) free(ctx context.Context) ([]Extent, string) {
	var free pieces
	perBlock := e.block / e.descSize
	for i := int64(0); i*perBlock < e.groups; i++ {
		if ctx.Err() != nil {
			return nil, "nobody waited for it"
		}
		b := e.read(e.descBlock(i)*e.block, int(e.block))
		if b == nil {
			return nil, fmt.Sprintf("its descriptors at block %d cannot be read", e.descBlock(i))
		}
		n := min(perBlock, e.groups-i*perBlock)
		gs := make([]group, n)
		for j := range gs {
			var why string
			if gs[j], why = e.group(b[int64(j)*e.descSize:][:e.descSize], i*perBlock+int64(j)); why != "" {
				return nil, why
			}
		}
		if why := e.groupsFree(i*perBlock, gs, &free); why != "" {
			return nil, why
		}
	}
	return free.list, ""
}

// descBlock is where block i of the descriptors lies: behind the super block, or with meta groups in the first of the groups
// that it describes.
func (e *ext) descBlock(i int64) int64 {
	if e.incompat&extMetaGroups == 0 || i < e.metaFirst {
		return e.first + 1 + i
	}
	g := i * (e.block / e.descSize)
	at := e.first + g*e.perGroup
	if e.hasSuper(g) {
		at++
	}
	return at
}

// hasSuper reports whether group g begins with a copy of the super block.
func (e *ext) hasSuper(g int64) bool {
	le := binary.LittleEndian
	switch {
	case g == 0:
		return true
	case e.compat&extSparse2 != 0:
		return g == int64(le.Uint32(e.sb[0x24c:])) || g == int64(le.Uint32(e.sb[0x250:]))
	case g == 1 || e.roCompat&extSparse == 0:
		return true
	}
	for _, base := range []int64{3, 5, 7} {
		n := base
		for n < g {
			n *= base
		}
		if n == g {
			return true
		}
	}
	return false
}

// group reads descriptor d, number n.
func (e *ext) group(d []byte, n int64) (group, string) {
	le := binary.LittleEndian
	g := group{
		bitmap: int64(le.Uint32(d)), inodeMap: int64(le.Uint32(d[4:])), table: int64(le.Uint32(d[8:])),
		free: int64(le.Uint16(d[0xc:])), sum: uint32(le.Uint16(d[0x18:])),
	}
	if e.descSize >= 64 {
		g.bitmap |= int64(le.Uint32(d[0x20:])) << 32
		g.inodeMap |= int64(le.Uint32(d[0x24:])) << 32
		g.table |= int64(le.Uint32(d[0x28:])) << 32
		g.free |= int64(le.Uint16(d[0x2c:])) << 16
		g.sum |= uint32(le.Uint16(d[0x38:])) << 16
	}
	if e.groupSums && e.descSum(d, n) != le.Uint16(d[0x1e:]) {
		return g, fmt.Sprintf("the descriptor of its group %d is damaged (check sum)", n)
	}
	g.uninit = e.groupSums && le.Uint16(d[0x12:])&2 != 0
	tables := (e.inodes*e.inodeSize + e.block - 1) / e.block
	for _, place := range []int64{g.bitmap, g.inodeMap, g.table, g.table + tables - 1} {
		if place <= 0 || place >= e.blocks {
			return g, fmt.Sprintf("the descriptor of its group %d is damaged (block %d)", n, place)
		}
	}
	e.bitmaps.add(e.off+g.bitmap*e.block, e.block)
	e.inodeMaps.add(e.off+g.inodeMap*e.block, e.block)
	e.tables.add(e.off+g.table*e.block, tables*e.block)
	e.copies(n)
	return g, ""
}

// copies notes the super block, the descriptors and the room for more of them at the beginning of group n.
func (e *ext) copies(n int64) {
	at, perBlock := e.first+n*e.perGroup, e.block/e.descSize
	size := int64(0)
	if e.hasSuper(n) {
		size = 1
	}
	switch meta := n / perBlock; {
	case e.incompat&extMetaGroups == 0:
		size *= 1 + (e.groups+perBlock-1)/perBlock + e.reserved
	case meta < e.metaFirst:
		size *= 1 + e.metaFirst
	default:
		if i := n % perBlock; i <= 1 || i == perBlock-1 {
			size++
		}
	}
	size = min(size, e.blocks-at)
	e.fixed.add(e.off+at*e.block, size*e.block)
}

// descSum is the check sum of descriptor d: over its number and itself without the sum.
func (e *ext) descSum(d []byte, n int64) uint16 {
	num := binary.LittleEndian.AppendUint32(nil, uint32(n))
	if e.sums {
		sum := crc32c(crc32c(e.seed, num), d[:0x1e])
		return uint16(crc32c(crc32c(sum, []byte{0, 0}), d[0x20:]))
	}
	sum := crc16(crc16(crc16(0xffff, e.sb[0x68:0x78]), num), d[:0x1e])
	if e.incompat&ext64 != 0 {
		sum = crc16(sum, d[0x20:])
	}
	return sum
}

// groupsFree adds what is free in the groups gs, of which the first is number n. Bitmaps that lie side by side, as with
// flexible groups, are read at once.
func (e *ext) groupsFree(n int64, gs []group, free *pieces) string {
	const most = 256 << 10
	for i := 0; i < len(gs); {
		j := i + 1
		for j < len(gs) && gs[j].bitmap == gs[j-1].bitmap+1 && int64(j-i+1)*e.block <= most {
			j++
		}
		b := e.read(gs[i].bitmap*e.block, int(int64(j-i)*e.block))
		if b == nil {
			return fmt.Sprintf("its bitmap at block %d cannot be read", gs[i].bitmap)
		}
		for ; i < j; i++ {
			if why := e.groupFree(n, gs[i], b[:e.block], free); why != "" {
				return why
			}
			n, b = n+1, b[e.block:]
		}
	}
	return ""
}

// groupFree adds what is free in group n, whose bitmap is b. Where the bitmap was never written, everything is, but for the
// metadata, which is taken off for all groups at the end.
func (e *ext) groupFree(n int64, g group, b []byte, free *pieces) string {
	at := e.first + n*e.perGroup
	blocks := min(e.perGroup, e.blocks-at)
	if g.uninit {
		free.add(e.off+at*e.block, blocks*e.block)
		return ""
	}
	if sum := crc32c(e.seed, b[:e.perGroup/8]); e.sums && sum != g.sum && (e.descSize >= 64 || sum&0xffff != g.sum) {
		return fmt.Sprintf("the bitmap of its group %d is damaged (check sum)", n)
	}
	count := int64(0)
	zeroRuns(b, blocks, func(first, n int64) {
		count += n
		free.add(e.off+(at+first)*e.block, n*e.block)
	})
	if count != g.free {
		return fmt.Sprintf("its group %d has %d free blocks by its bitmap and %d by its descriptor", n, count, g.free)
	}
	return ""
}

// zeroRuns calls each for every run of zero bits among the first n bits of b, in ascending order. The lowest bit of a byte is
// its first.
func zeroRuns(b []byte, n int64, each func(first, n int64)) {
	start := int64(-1) // of the run that goes on
	for at := int64(0); at < n; {
		var w uint64
		if at/8+8 <= int64(len(b)) {
			w = binary.LittleEndian.Uint64(b[at/8:])
		} else {
			w = ^uint64(0)
			for i := len(b) - 1; i >= int(at/8); i-- {
				w = w<<8 | uint64(b[i])
			}
		}
		end := min(n, at+64)
		for at < end {
			w2 := w >> (at % 64)
			if start < 0 {
				w2 = ^w2
			}
			// Behind the word's last bit the shift brought zeros, or ones where they were turned.
			skip := min(int64(bits.TrailingZeros64(w2)), end-at)
			if start >= 0 && skip < end-at {
				each(start, at+skip-start)
				start = -1
			} else if start < 0 && skip < end-at {
				start = at + skip
			}
			at += skip
		}
	}
	if start >= 0 {
		each(start, n-start)
	}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crc32c continues the sum as the kernel does: nothing is turned around at the beginning and at the end.
func crc32c(sum uint32, b []byte) uint32 { return ^crc32.Update(^sum, castagnoli, b) }

// crc16 is CRC-16/ARC.
func crc16(sum uint16, b []byte) uint16 {
	for _, x := range b {
		sum ^= uint16(x)
		for range 8 {
			sum = sum>>1 ^ 0xa001*(sum&1)
		}
	}
	return sum
}
