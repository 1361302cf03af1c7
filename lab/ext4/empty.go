package ext4

import (
	"bytes"
	"fmt"
	"io"

	"carte/lab"
)

// Where Empty puts the two directories that every ext4 has; a block each, behind the room for descriptors.
const (
	rootInode      = 2
	lostFoundInode = firstInode
	rootBlock      = 1 + reservedBlocks
	lostFoundBlock = rootBlock + 1
	emptyData      = lostFoundBlock + 1
	extraIsize     = 32 // bytes that an inode uses behind the 128 of old
)

// What the file systems can do.
const (
	compatSparseSuper2 = 0x200
	compatXattr        = 0x8
	incompatFileType   = 0x2
	incompatExtents    = 0x40
	incompatFlexBG     = 0x200
	roCompatLargeFile  = 0x2
	roCompatHugeFile   = 0x8
	roCompatExtraIsize = 0x40
)

// Empty writes a file system of opt.Size bytes with nothing but lost+found in it, owned by root, to the beginning of w, where all of it must read as
// zeros: a journal that holds old commits would be replayed. lab.ErrInvalid: the options, or a size that is too small for a journal, less than 8 MiB.
func Empty(w io.WriterAt, opt Options) error {
	if err := opt.Check(); err != nil {
		return err
	}
	p, err := planLayout(emptyData, lostFoundInode, max(opt.Size, BlockSize))
	if err != nil {
		return err
	}
	if p.journal == 0 {
		return fmt.Errorf("ext4: %d bytes are too small for a journal: %w", opt.Size, lab.ErrInvalid)
	}
	used, dirs := make([]bool, firstInode), make([]bool, firstInode)
	for i := range used {
		used[i] = true
	}
	dirs[rootInode-1], dirs[lostFoundInode-1] = true, true
	out := &sticky{w: w}
	p.writeDirectory(out, rootInode, rootBlock, 0o755, 3, name{rootInode, "."}, name{rootInode, ".."}, name{lostFoundInode, "lost+found"})
	p.writeDirectory(out, lostFoundInode, lostFoundBlock, 0o700, 2, name{lostFoundInode, "."}, name{rootInode, ".."})
	freeBlocks, freeInodes := p.writeGroups(out, used, dirs)
	sb := emptySuper()
	p.writeJournal(out, sb, opt.UUID)
	p.writeSuper(out, sb, opt, freeBlocks, freeInodes)
	if out.err != nil {
		return fmt.Errorf("ext4: %w", out.err)
	}
	return nil
}

// emptySuper is the super block without what depends on the size.
func emptySuper() []byte {
	sb := make([]byte, sbSize)
	for at, v := range map[int]uint32{
		sbBlockBits: 2, sbClusterBits: 2, sbBlocksPerGroup: blocksPerGroup, sbClustersInGroup: blocksPerGroup,
		sbRevision: 1, sbFirstInode: firstInode, sbLostFound: lostFoundInode,
		sbCompat:   compatSparseSuper2 | compatXattr,
		sbIncompat: incompatFileType | incompatExtents | incompatFlexBG,
		sbROCompat: roCompatLargeFile | roCompatHugeFile | roCompatExtraIsize,
	} {
		le.PutUint32(sb[at:], v)
	}
	for at, v := range map[int]uint16{sbMagic: magic, sbState: stateClean, sbErrors: 1, sbInodeSize: inodeSize, sbMinExtra: extraIsize, sbWantExtra: extraIsize} {
		le.PutUint16(sb[at:], v)
	}
	sb[sbGroupsPerFlex] = 31
	return sb
}

// name is an entry of a directory, itself one.
type name struct {
	inode uint32
	name  string
}

// writeDirectory writes an inode and its one block.
func (p layout) writeDirectory(w *sticky, inode, block uint32, mode, links uint16, names ...name) {
	b := make([]byte, blockSize)
	at := 0
	for i, n := range names {
		length := (8 + len(n.name) + 3) &^ 3
		if i == len(names)-1 {
			length = blockSize - at
		}
		e := b[at:]
		le.PutUint32(e, n.inode)
		le.PutUint16(e[4:], uint16(length))
		e[6], e[7] = byte(len(n.name)), 2 // a directory
		copy(e[8:], n.name)
		at += length
	}
	w.at(b, int64(block)*blockSize)

	ino := make([]byte, inodeSize)
	le.PutUint16(ino[0x00:], 0o040000|mode)
	le.PutUint32(ino[0x04:], blockSize)
	le.PutUint16(ino[0x1a:], links)
	le.PutUint32(ino[0x1c:], blockSize/512)
	putExtent(ino, block, 1)
	le.PutUint16(ino[0x80:], extraIsize)
	w.at(ino, int64(p.data)*blockSize+int64(inode-1)*inodeSize)
}

// Sound looks at the super block of a file system, the 1024 bytes at byte 1024, and says what speaks against taking it for the one that was made with
// opt and is still in order; "" for nothing. It is no check of a file system: it tells one that is not ours, or that the kernel has found wrong.
func Sound(sb []byte, opt Options) string {
	label := make([]byte, 16)
	copy(label, opt.Label)
	switch {
	case len(sb) < sbSize || le.Uint16(sb[sbMagic:]) != magic:
		return "there is no ext4"
	case [16]byte(sb[sbUUID:]) != opt.UUID || !bytes.Equal(sb[sbLabel:sbLabel+16], label):
		return "there is another ext4"
	case int64(le.Uint32(sb[sbBlocks:]))*blockSize != opt.Size || le.Uint32(sb[sbBlockBits:]) != 2:
		return "its size was changed"
	case le.Uint16(sb[sbState:])&stateErrors != 0:
		return "the kernel has found errors in it"
	case le.Uint32(sb[sbCompat:])&compatJournal == 0:
		return "its journal was taken away"
	}
	return ""
}
