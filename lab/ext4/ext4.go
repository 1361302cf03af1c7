// Package ext4 makes ext4 file systems with a journal: empty ones (Empty), and ones with files in them (Build), which may take over the places of an
// earlier version (ReadOlder). It is pure Go and needs no privilege; the same files and options give the same bytes.
//
// It knows what lies where in a file system, and refuses to know tars, folders and what a file system is for. It writes no check sums of metadata and no
// copies of the super block: what it makes is checked by its hash.
package ext4

import (
	"encoding/binary"
	"fmt"
	"io"

	"carte/lab"
)

// BlockSize is the length of a block in bytes, and MaxSize that of the largest file system: descriptors are reserved up to there, so that one can be laid
// out larger without moving a file.
const (
	BlockSize = 4096
	MaxSize   = 1 << 40
)

// Options say what follows from nothing else.
type Options struct {
	Label string   // at most 16 bytes
	UUID  [16]byte // must not be zero: an OS that finds two equal ones mounts the wrong one
	Size  int64    // bytes of the whole file system, a multiple of BlockSize, at most MaxSize; 0, for Build: what the files need, and room
	Room  int64    // bytes, for Build with a Size of 0: room to grow is a quarter of what the files need, and at least this; 0: 256 MiB
}

// Check returns lab.ErrInvalid for options that no file system can have.
func (o Options) Check() error {
	if len(o.Label) > 16 || o.UUID == [16]byte{} {
		return fmt.Errorf("ext4: label %q (at most 16 bytes), UUID %x (not zero): %w", o.Label, o.UUID, lab.ErrInvalid)
	}
	if o.Size < 0 || o.Size > MaxSize || o.Size%BlockSize != 0 {
		return fmt.Errorf("ext4: a size of %d bytes, want a multiple of %d up to %d: %w", o.Size, BlockSize, int64(MaxSize), lab.ErrInvalid)
	}
	return nil
}

// The fields of an ext4 file system that are written here (kernel: Documentation/filesystems/ext4/). What is made here has blocks of 4096 bytes,
// groups of 32768 blocks, inodes of 256 bytes, group descriptors of 32 bytes, and no check sums.
const (
	blockSize      = BlockSize
	blocksPerGroup = 8 * blockSize
	inodeSize      = 256
	descSize       = 32
	firstInode     = 11 // the ones before are reserved
	journalInode   = 8

	sbAt              = 1024
	sbInodes          = 0x00
	sbBlocks          = 0x04
	sbFreeBlocks      = 0x0c
	sbFreeInodes      = 0x10
	sbBlockBits       = 0x18
	sbClusterBits     = 0x1c
	sbBlocksPerGroup  = 0x20
	sbClustersInGroup = 0x24
	sbInodesPerGroup  = 0x28
	sbMaxMounts       = 0x36
	sbMagic           = 0x38
	sbState           = 0x3a
	sbErrors          = 0x3c
	sbRevision        = 0x4c
	sbFirstInode      = 0x54
	sbInodeSize       = 0x58
	sbCompat          = 0x5c
	sbIncompat        = 0x60
	sbROCompat        = 0x64
	sbUUID            = 0x68
	sbLabel           = 0x78
	sbJournalInode    = 0xe0
	sbHashSeed        = 0xec
	sbHashVersion     = 0xfc
	sbJournalBackup   = 0xfd
	sbDefaultMount    = 0x100
	sbJournalBlocks   = 0x10c
	sbMinExtra        = 0x15c
	sbWantExtra       = 0x15e
	sbFlags           = 0x160
	sbGroupsPerFlex   = 0x174
	sbChecksumType    = 0x175
	sbLostFound       = 0x268
	sbSize            = 1024
	magic             = 0xef53
	stateClean        = 1
	stateErrors       = 2
	compatJournal     = 0x4
	compatDirIndex    = 0x20
	hashHalfMD4       = 1
	flagSignedHash    = 1
	mountXattrACL     = 0xc // user_xattr and acl, as mke2fs sets
	checksumCRC32C    = 1   // the only one there is; e2fsck wants it named even where none is used
	extentsFlag       = 0x80000
	maxInodesPerGroup = 8 * blockSize
)

var le = binary.LittleEndian

// sticky remembers the first error of many small writes.
type sticky struct {
	w   io.WriterAt
	err error
}

func (s *sticky) at(b []byte, off int64) {
	if s.err == nil {
		_, s.err = s.w.WriteAt(b, off)
	}
}

// writeSuper writes the super block. All its times stay zero, so that the same files give the same bytes.
func (p layout) writeSuper(w *sticky, sb []byte, opt Options, freeBlocks, freeInodes uint32) {
	put := func(at int, v uint32) { le.PutUint32(sb[at:], v) }
	put(sbBlocks, p.blocks)
	put(sbInodes, p.groups*p.inodesPerGroup)
	put(sbInodesPerGroup, p.inodesPerGroup)
	put(sbFreeBlocks, freeBlocks)
	put(sbFreeInodes, freeInodes)
	compat := le.Uint32(sb[sbCompat:]) | compatDirIndex
	if p.journal > 0 {
		compat |= compatJournal
		put(sbJournalInode, journalInode)
	}
	put(sbCompat, compat)
	le.PutUint16(sb[sbMaxMounts:], 0xffff) // no check after so many mounts
	copy(sb[sbUUID:], opt.UUID[:])
	clear(sb[sbLabel : sbLabel+16])
	copy(sb[sbLabel:], opt.Label)
	copy(sb[sbHashSeed:], opt.UUID[:]) // any value will do, so long as it is not the same everywhere
	sb[sbHashVersion] = hashHalfMD4
	put(sbFlags, le.Uint32(sb[sbFlags:])|flagSignedHash)
	put(sbDefaultMount, mountXattrACL)
	sb[sbChecksumType] = checksumCRC32C
	w.at(sb, sbAt)
}

func tooSmall(need, have int64) error {
	return fmt.Errorf("ext4: the files need at least %d bytes, the size given is %d: %w", need, have, lab.ErrInvalid)
}
