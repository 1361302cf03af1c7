package layout

import (
	"context"
	"encoding/binary"
)

// fat is a FAT file system ("Microsoft FAT Specification", 2005; like Linux, fs/fat/inode.c, where that leaves something open).
type fat struct {
	sector, cluster int64 // bytes
	sectors         int64
	reserved        int64 // sectors before the first table
	tables, length  int64 // how many, and sectors of each
	data            int64 // sectors before the first cluster, which is number 2
	clusters        int64
	bits            int // of an entry
	dirty           bool
}

// parseFAT reads a boot sector, and says why it cannot be used.
func parseFAT(b []byte) (f fat, why string) {
	le := binary.LittleEndian
	f.sector, f.cluster = int64(le.Uint16(b[11:])), int64(b[13])
	f.reserved, f.tables, f.length = int64(le.Uint16(b[14:])), int64(b[16]), int64(le.Uint16(b[22:]))
	root := int64(le.Uint16(b[17:]))
	if f.sectors = int64(le.Uint16(b[19:])); f.sectors == 0 {
		f.sectors = int64(le.Uint32(b[32:]))
	}
	wide := f.length == 0
	f.dirty = b[37]&3 != 0
	if wide {
		f.length = int64(le.Uint32(b[36:]))
		f.dirty = b[65]&3 != 0
	}
	power := func(n, least, most int64) bool { return n >= least && n <= most && n&(n-1) == 0 }
	if !power(f.sector, 512, 4096) || !power(f.cluster, 1, 128) || f.reserved == 0 || f.tables == 0 || f.tables > 4 || f.length == 0 {
		return f, "its boot sector contradicts itself"
	}
	f.cluster *= f.sector
	f.data = f.reserved + f.tables*f.length + (root*32+f.sector-1)/f.sector
	f.clusters = (f.sectors - f.data) / (f.cluster / f.sector)
	switch {
	case wide:
		f.bits = 32
	case f.clusters > 4084:
		f.bits = 16
	default:
		f.bits = 12
	}
	// Sectors behind the last cluster that the table can name belong to nobody: they are kept.
	f.clusters = min(f.clusters, f.length*f.sector*8/int64(f.bits)-2)
	if f.clusters < 1 || f.clusters > 1<<28 {
		return f, "its boot sector contradicts itself"
	}
	return f, ""
}

// fat finds the free clusters. They must be free in every copy of the table; where only one copy is kept up to date (FAT32
// allows that) nothing is known.
func (s *section) fat(ctx context.Context, x *found) {
	b := s.read(0, 512)
	if b == nil {
		x.Kept = "its boot sector cannot be read"
		return
	}
	f, why := parseFAT(b)
	switch {
	case why != "":
		x.Kept = why
	case f.sectors > s.size/f.sector:
		x.Kept = "it says that it is longer than its partition"
	case f.dirty || !s.cleanFAT(f):
		x.Kept = "it was not unmounted; it must be checked first"
	case f.bits == 32 && binary.LittleEndian.Uint16(b[40:])&0x80 != 0:
		x.Kept = "its tables are not kept alike"
	default:
		x.Clean = true
		x.free, x.Kept = s.clusters(ctx, f)
	}
}

// cleanFAT looks at the two flags in the entry of cluster 1, which Windows sets: left in order, and no errors. FAT12 has none.
func (s *section) cleanFAT(f fat) bool {
	b := s.read(f.reserved*f.sector, 8)
	switch {
	case b == nil:
		return false
	case f.bits == 32:
		return binary.LittleEndian.Uint32(b[4:])>>26&3 == 3
	case f.bits == 16:
		return binary.LittleEndian.Uint16(b[2:])>>14 == 3
	}
	return true
}

// clusters reads all tables piece by piece. A piece is a whole number of entries of each kind, and of sectors.
func (s *section) clusters(ctx context.Context, f fat) ([]Extent, string) {
	const piece = 192 << 10
	var free pieces
	start := int64(-1)
	end := func(n int64) {
		if start >= 0 {
			free.add(s.off+f.data*f.sector+(start-2)*f.cluster, (n-start)*f.cluster)
		}
		start = -1
	}
	last := f.clusters + 2 // behind the last one
	for at := int64(0); at < f.length*f.sector && at*8/int64(f.bits) < last; at += piece {
		if ctx.Err() != nil {
			return nil, "nobody waited for it"
		}
		var copies [][]byte
		for i := range f.tables {
			b := s.read((f.reserved+i*f.length)*f.sector+at, int(min(piece, f.length*f.sector-at)))
			if b == nil {
				return nil, "its table cannot be read"
			}
			copies = append(copies, b)
		}
		base := at * 8 / int64(f.bits)
		for n := base; n < min(last, base+int64(len(copies[0]))*8/int64(f.bits)); n++ {
			switch {
			case n < 2:
			case !freeCluster(copies, n-base, f.bits):
				end(n)
			case start < 0:
				start = n
			}
		}
	}
	end(last)
	return free.list, ""
}

// freeCluster reports whether entry n is zero in all copies. The upper four bits of FAT32 are not part of it.
func freeCluster(copies [][]byte, n int64, bits int) bool {
	le := binary.LittleEndian
	for _, b := range copies {
		var v uint32
		switch bits {
		case 32:
			v = le.Uint32(b[4*n:]) & 0x0fffffff
		case 16:
			v = uint32(le.Uint16(b[2*n:]))
		default:
			v = uint32(le.Uint16(b[n*3/2:])) >> (4 * (n & 1)) & 0xfff
		}
		if v != 0 {
			return false
		}
	}
	return true
}
