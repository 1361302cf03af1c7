package layout

import (
	"context"
	"encoding/binary"
	"fmt"
)

// The super block, the group descriptors and the bitmaps of ext2, ext3 and ext4 are described in the kernel's
// Documentation/filesystems/ext4. Which blocks are metadata follows e2fsprogs (lib/ext2fs: alloc_sb.c, closefs.c).

// Feature bits that matter here.
const (
	extJournal      = 0x4   // compat
	extLazyGroups   = 0x40  // compat; a test of 2006, in which bitmaps lie
	extSparse2      = 0x200 // compat
	extRecover      = 0x4   // incompat
	extMetaGroups   = 0x10
	extExtents      = 0x40
	ext64           = 0x80
	extFlexible     = 0x200
	extSeed         = 0x2000
	extSparse       = 0x1 // read-only compat
	extGroupSum     = 0x10
	extClusters     = 0x200
	extMetadataSum  = 0x400
	extOrphansThere = 0x10000

	// What is understood: it may be set and changes nothing about which blocks are free. Of the compatible ones that
	// holds for all by their nature.
	extIncompat = 0x2 | extMetaGroups | extExtents | ext64 | 0x100 /* mmp */ | extFlexible | 0x400 /* ea_inode */ |
		extSeed | 0x4000 /* large_dir */ | 0x8000 /* inline_data */ | 0x10000 /* encrypt */ | 0x20000 /* casefold */
	extROCompat = extSparse | 0x2 /* large_file */ | 0x4 /* btree_dir */ | 0x8 /* huge_file */ | extGroupSum | 0x20 | /* dir_nlink */
		0x40 /* extra_isize */ | 0x100 /* quota */ | extMetadataSum | 0x1000 /* read-only */ | 0x2000 /* project */ | 0x8000 /* verity */
)

// maxGroups bounds the time and memory that a file system may cost: 64 TiB with blocks of 4 KiB. Lists of metadata stay below
// maxExtents, where pieces would begin to forget.
const maxGroups = maxExtents / 2

// ext is a file system. Places are block numbers.
type ext struct {
	*section
	sb                         []byte
	block                      int64 // bytes in a block
	first, blocks              int64 // the first block that is in a group, and how many there are with those before it
	perGroup, groups           int64
	inodes, inodeSize          int64 // in a group; bytes of one
	descSize                   int64
	compat, incompat, roCompat uint32
	seed                       uint32 // of all check sums but the super block's
	sums, groupSums            bool   // whether all metadata has check sums, or the descriptors at least
	bitmaps, inodeMaps, tables pieces // where metadata lies, in bytes of the disk
	fixed                      pieces // super blocks and descriptors, their copies, room for more
	reserved, metaFirst        int64  // blocks that are kept for more descriptors; the first meta group
}

// extFacts reads what a super block says of itself.
func extFacts(sb []byte) System {
	le := binary.LittleEndian
	if len(sb) < 1024 || le.Uint16(sb[0x38:]) != 0xef53 || le.Uint32(sb[0x18:]) > 6 {
		return System{}
	}
	x := System{Type: "ext2", Label: text(sb[0x78:0x88]), UUID: uuid(sb[0x68:0x78])}
	incompat := le.Uint32(sb[0x60:])
	if le.Uint32(sb[0x5c:])&extJournal != 0 {
		x.Type = "ext3"
	}
	if incompat&(extExtents|ext64|extFlexible) != 0 {
		x.Type = "ext4"
	}
	x.Bytes = max(0, extBlocks(sb)<<(10+le.Uint32(sb[0x18:])))
	return x
}

// extBlocks is how many blocks there are; 0 where that is nonsense.
func extBlocks(sb []byte) int64 {
	n := uint64(binary.LittleEndian.Uint32(sb[4:]))
	if binary.LittleEndian.Uint32(sb[0x60:])&ext64 != 0 {
		n |= uint64(binary.LittleEndian.Uint32(sb[0x150:])) << 32
	}
	if n >= 1<<46 {
		return 0
	}
	return int64(n)
}

// ext finds what is free in an ext2, ext3 or ext4.
func (s *section) ext(ctx context.Context, f *found) {
	e := &ext{section: s, sb: s.read(1024, 1024)}
	if f.Kept = e.parse(); f.Kept != "" {
		return
	}
	if f.Kept = e.unclean(); f.Kept != "" {
		return
	}
	f.Clean = true
	free, why := e.free(ctx)
	if why != "" {
		f.Kept = why
		return
	}
	taken := e.metadata()
	f.free = without(free, taken)
	log, why := e.journal()
	if why != "" {
		f.Kept = why
		return
	}
	f.stale = without(log, taken)
}

// parse reads the super block, and says why it cannot be used.
func (e *ext) parse() string {
	if len(e.sb) < 1024 {
		return "its super block cannot be read"
	}
	le := binary.LittleEndian
	if rev := le.Uint32(e.sb[0x4c:]); rev > 1 {
		return fmt.Sprintf("its revision %d is not known", rev)
	} else if rev == 1 {
		e.compat, e.incompat, e.roCompat = le.Uint32(e.sb[0x5c:]), le.Uint32(e.sb[0x60:]), le.Uint32(e.sb[0x64:])
	}
	if why := e.features(); why != "" {
		return why
	}
	e.sums = e.roCompat&extMetadataSum != 0
	e.groupSums = e.sums || e.roCompat&extGroupSum != 0
	if e.sums && (e.sb[0x175] != 1 || crc32c(^uint32(0), e.sb[:0x3fc]) != le.Uint32(e.sb[0x3fc:])) {
		return "its super block is damaged (check sum)"
	}
	e.seed = crc32c(^uint32(0), e.sb[0x68:0x78])
	if e.incompat&extSeed != 0 {
		e.seed = le.Uint32(e.sb[0x270:])
	}
	e.block = 1024 << le.Uint32(e.sb[0x18:])
	e.first, e.blocks = int64(le.Uint32(e.sb[0x14:])), extBlocks(e.sb)
	e.perGroup, e.inodes = int64(le.Uint32(e.sb[0x20:])), int64(le.Uint32(e.sb[0x28:]))
	e.inodeSize, e.descSize = 128, 32
	if le.Uint32(e.sb[0x4c:]) == 1 {
		e.inodeSize = int64(le.Uint16(e.sb[0x58:]))
	}
	if e.incompat&ext64 != 0 {
		e.descSize = int64(le.Uint16(e.sb[0xfe:]))
	}
	e.reserved, e.metaFirst = int64(le.Uint16(e.sb[0xce:])), int64(le.Uint32(e.sb[0x104:]))
	return e.geometry()
}

// features says what the super block asks for that is not understood.
func (e *ext) features() string {
	switch {
	case e.incompat&extRecover != 0:
		return "its journal must be replayed first: the system crashed, or is running"
	case e.roCompat&extOrphansThere != 0:
		return "it was not left in order: files that were deleted while open are still there"
	case e.roCompat&extClusters != 0:
		return "its free space is counted in clusters (bigalloc)"
	case e.incompat&^extIncompat != 0:
		return fmt.Sprintf("it has features that are not known (incompatible 0x%x)", e.incompat&^extIncompat)
	case e.roCompat&^extROCompat != 0:
		return fmt.Sprintf("it has features that are not known (read-only 0x%x)", e.roCompat&^extROCompat)
	case e.compat&extLazyGroups != 0:
		return "it has features that are not known (lazy_bg)"
	}
	return ""
}

// geometry checks that the numbers make sense together, and counts the groups.
func (e *ext) geometry() string {
	const odd = "its super block contradicts itself"
	power := func(n, least, most int64) bool { return n >= least && n <= most && n&(n-1) == 0 }
	first := int64(0)
	if e.block == 1024 {
		first = 1
	}
	switch {
	case e.block > 64<<10 || e.first != first || e.blocks <= e.first+1:
		return odd + " (blocks)"
	case e.perGroup < 256 || e.perGroup > 8*e.block || e.perGroup%8 != 0:
		return odd + " (groups)"
	case e.inodes <= 0 || e.inodes > 8*e.block || !power(e.inodeSize, 128, e.block):
		return odd + " (inodes)"
	case !power(e.descSize, 32, 1024) || e.descSize > e.block || e.incompat&ext64 != 0 && e.descSize < 64:
		return odd + " (descriptors)"
	case e.blocks > e.size/e.block:
		return fmt.Sprintf("it says that it is %d bytes longer than its partition", e.blocks*e.block-e.size)
	}
	if e.groups = (e.blocks - e.first + e.perGroup - 1) / e.perGroup; e.groups > maxGroups {
		return fmt.Sprintf("it has %d groups, which are too many", e.groups)
	}
	return ""
}

// unclean says why the bitmaps cannot be trusted. While a file system with a journal is mounted, and after a crash, extRecover
// is set; without a journal the state loses its first bit.
func (e *ext) unclean() string {
	switch state := binary.LittleEndian.Uint16(e.sb[0x3a:]); {
	case state&2 != 0:
		return "errors were found in it; it must be checked first"
	case state&1 == 0 || state&4 != 0:
		return "it was not unmounted; it must be checked first"
	}
	return ""
}

// metadata lists all that is never free, whatever the bitmaps say, in bytes of the disk: super blocks, descriptors, their
// copies and the room for more of them, bitmaps, and inode tables to their end: the kernel relies on zeros in those that it
// never wrote, where the descriptor says that they were zeroed.
func (e *ext) metadata() []Extent {
	list := []Extent{{e.off, (e.first + 1) * e.block}}
	for _, p := range []pieces{e.fixed, e.bitmaps, e.inodeMaps, e.tables} {
		list = append(list, p.list...)
	}
	return merged(list)
}
