package ext4

import (
	"encoding/binary"
)

// layout is where everything goes, in blocks:
//
//	0 .. data                super block, descriptors and room for more; of Empty, two directories
//	data .. tables           the inode tables of all groups, one after the other: the first begins where it began
//	tables .. bitmaps        a block bitmap and an inode bitmap for each group
//	bitmaps .. end           the journal
//	end .. blocks            of Build, files and directories; else free
//
// Metadata may lie outside its group because flex_bg is set. There are no copies of the super block: sparse_super2 without backups.
type layout struct {
	blocks, groups uint32
	inodesPerGroup uint32
	data           uint32 // where the inode tables begin: what is fixed comes before
	tables         uint32
	bitmaps        uint32
	journal        uint32 // blocks
	end            uint32
	files          bitmap // blocks behind end that are taken, too: Build puts the files there
}

const (
	blocksPerInode = 4 // as mke2fs: one for each 16 KiB
	reservedBlocks = MaxSize / blockSize / blocksPerGroup * descSize / blockSize
)

// planLayout chooses the layout for data blocks and inodes in use. size is in bytes.
func planLayout(data, inodes uint32, size int64) (layout, error) {
	p := layout{blocks: uint32(size / blockSize), data: data}
	p.groups = (p.blocks + blocksPerGroup - 1) / blocksPerGroup
	if p.groups == 0 {
		return p, tooSmall(int64(data)*blockSize, size)
	}
	// A quarter more inodes than there are, and no fewer than mke2fs would give. Tables are whole blocks.
	n := max(min(p.blocks, blocksPerGroup)/blocksPerInode, 64)
	n = max(n, (inodes+inodes/4)/p.groups+1)
	n = min((n+15)&^15, maxInodesPerGroup)
	p = layoutOf(data, p.blocks, n)
	if p.end > p.blocks || p.groups*n < inodes {
		return p, tooSmall(int64(p.end)*blockSize, size)
	}
	return p, nil
}

// layoutOf is what follows from where the tables begin, the size, and the inodes of a group.
func layoutOf(data, blocks, inodesPerGroup uint32) layout {
	p := layout{blocks: blocks, groups: (blocks + blocksPerGroup - 1) / blocksPerGroup, inodesPerGroup: inodesPerGroup, data: data}
	p.tables = p.data + p.groups*(inodesPerGroup*inodeSize/blockSize)
	p.bitmaps = p.tables + 2*p.groups
	p.journal = journalBlocks(blocks)
	p.end = p.bitmaps + p.journal
	return p
}

// journalBlocks follows mke2fs up to 64 MiB: more does not help on a desk.
func journalBlocks(blocks uint32) uint32 {
	switch {
	case blocks < 2048:
		return 0
	case blocks < 32768:
		return 1024
	case blocks < 256<<10:
		return 4096
	case blocks < 512<<10:
		return 8192
	}
	return 16384
}

// taken reports whether a block is in use: all up to the end, but for the room that is kept for descriptors of groups which are not there.
func (p layout) taken(b uint32) bool {
	descs := (p.groups*descSize + blockSize - 1) / blockSize
	return p.files.has(b) || b < p.end && (b < 1+descs || b >= 1+reservedBlocks)
}

// writeGroups writes the bitmaps and descriptors of all groups, and returns how many blocks and inodes are free.
func (p layout) writeGroups(w *sticky, used, dirs []bool) (freeBlocks, freeInodes uint32) {
	descs := make([]byte, (p.groups*descSize+blockSize-1)&^(blockSize-1))
	for g := range p.groups {
		var bitmaps [2 * blockSize]byte
		blockMap, inodeMap := bitmaps[:blockSize], bitmaps[blockSize:]
		var fb, fi, nd uint32
		blocks := uint32(blocksPerGroup)
		if g*blocksPerGroup >= p.end && (g+1)*blocksPerGroup <= p.blocks && p.files == nil { // all is free, as most of a large disk
			fb, blocks = blocks, 0
		}
		for i := range blocks { // bits behind the end of the file system are set
			switch b := g*blocksPerGroup + i; {
			case b >= p.blocks, p.taken(b):
				blockMap[i/8] |= 1 << (i % 8)
			default:
				fb++
			}
		}
		for i := range uint32(8 * blockSize) { // and so are bits behind the last inode of the group
			ino := int(g*p.inodesPerGroup + i) // counted from 0
			switch {
			case i >= p.inodesPerGroup, ino < len(used) && used[ino]:
				inodeMap[i/8] |= 1 << (i % 8)
			default:
				fi++
			}
			if i < p.inodesPerGroup && ino < len(dirs) && dirs[ino] {
				nd++
			}
		}
		at := p.tables + 2*g
		w.at(bitmaps[:], int64(at)*blockSize)
		d := descs[g*descSize:]
		le.PutUint32(d[0:], at)
		le.PutUint32(d[4:], at+1)
		le.PutUint32(d[8:], p.data+g*(p.inodesPerGroup*inodeSize/blockSize))
		le.PutUint16(d[12:], uint16(fb))
		le.PutUint16(d[14:], uint16(fi))
		le.PutUint16(d[16:], uint16(nd))
		freeBlocks += fb
		freeInodes += fi
	}
	w.at(descs, blockSize)
	return freeBlocks, freeInodes
}

// writeJournal makes inode 8 a file of one extent with an empty journal in it (kernel: Documentation/filesystems/ext4/journal.rst), and its copy in
// the super block, from which e2fsck restores a lost inode.
func (p layout) writeJournal(w *sticky, sb []byte, uuid [16]byte) {
	ino := make([]byte, inodeSize)
	le.PutUint16(ino[0x00:], 0o100600)
	le.PutUint32(ino[0x04:], p.journal*blockSize)
	le.PutUint16(ino[0x1a:], 1)                         // links
	le.PutUint32(ino[0x1c:], p.journal*(blockSize/512)) // sectors
	putExtent(ino, p.bitmaps, uint16(p.journal))
	le.PutUint16(ino[0x80:], extraIsize) // as in the other inodes
	w.at(ino, int64(p.data)*blockSize+(journalInode-1)*inodeSize)

	copy(sb[sbJournalBlocks:], ino[0x28:0x28+60])
	le.PutUint32(sb[sbJournalBlocks+15*4:], 0) // high half of the size
	le.PutUint32(sb[sbJournalBlocks+16*4:], p.journal*blockSize)
	sb[sbJournalBackup] = 1

	be := binary.BigEndian
	js := make([]byte, blockSize)
	be.PutUint32(js[0x00:], 0xc03b3998)
	be.PutUint32(js[0x04:], 4) // a version 2 super block
	be.PutUint32(js[0x0c:], blockSize)
	be.PutUint32(js[0x10:], p.journal)
	be.PutUint32(js[0x14:], 1) // the first block of the log
	be.PutUint32(js[0x18:], 1) // the first commit to expect
	copy(js[0x30:], uuid[:])
	be.PutUint32(js[0x40:], 1) // one user
	w.at(js, int64(p.bitmaps)*blockSize)
}

// putExtent makes an inode's content n blocks from first on.
func putExtent(ino []byte, first uint32, n uint16) {
	le.PutUint32(ino[0x20:], extentsFlag) // how the next 60 bytes are read
	extents := ino[0x28:]                 // a header and one extent
	le.PutUint16(extents[0:], 0xf30a)     // magic
	le.PutUint16(extents[2:], 1)          // extents in use
	le.PutUint16(extents[4:], 4)          // extents that fit
	le.PutUint16(extents[16:], n)
	le.PutUint32(extents[20:], first)
}
