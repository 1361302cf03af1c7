package ext4

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"time"

	"carte/lab"
)

// What a file system may have that Nodes reads: features of mke2fs beside those of Build. None of them changes where the contents of a file lie.
const (
	incompatRecover = 0x4
	incompat64      = 0x80
	incompatSeed    = 0x2000
	incompatLarge   = 0x4000
	incompatKnown   = incompatFileType | incompatExtents | incompatFlexBG | incompat64 | incompatSeed | incompatLarge
	sbDescSize      = 0xfe
	inlineFlag      = 0x10000000
	encryptFlag     = 0x800
)

// Nodes reads everything that a file system holds, root first, as Build takes it; lost+found of the root is left out. Contents are not read: Data says
// where in r they lie. The file system may be one of mke2fs, with blocks of 4096 bytes and every file in extents; one that must be recovered first is
// refused. lab.ErrInvalid: it cannot be read, and why; lab.ErrDamaged: it contradicts itself. Its memory grows with the number of files.
func Nodes(ctx context.Context, r io.ReaderAt, size int64) ([]*Node, error) {
	n := &nodeReader{r: &pieces{r: r, have: map[int64][]byte{}}, ctx: ctx, seen: map[uint32]*Node{}, size: size}
	if err := n.shape(); err != nil {
		return nil, err
	}
	if _, err := n.node(rootInode, ""); err != nil {
		return nil, err
	}
	return n.all, nil
}

type nodeReader struct {
	r    *pieces
	ctx  context.Context
	size int64
	seen map[uint32]*Node
	all  []*Node
	deep int

	perGroup, inode uint32
	tables          []int64 // where the inode table of each group begins, in bytes
}

func damagedAt(name, what string) error {
	return fmt.Errorf("ext4: %q: %s: %w", "/"+name, what, lab.ErrDamaged)
}

// shape reads the super block and the group descriptors.
func (n *nodeReader) shape() error {
	sb, err := n.r.read(sbAt, sbSize)
	if err != nil || le.Uint16(sb[sbMagic:]) != magic {
		return fmt.Errorf("it is no ext4 file system: %w", lab.ErrInvalid)
	}
	blocks, incompat := int64(le.Uint32(sb[sbBlocks:])), le.Uint32(sb[sbIncompat:])
	n.perGroup, n.inode = le.Uint32(sb[sbInodesPerGroup:]), uint32(le.Uint16(sb[sbInodeSize:]))
	desc := int64(descSize)
	if incompat&incompat64 != 0 {
		desc = int64(le.Uint16(sb[sbDescSize:]))
	}
	switch {
	case incompat&incompatRecover != 0:
		return fmt.Errorf("the ext4 file system was not unmounted cleanly; e2fsck, or mounting it once, puts it right: %w", lab.ErrInvalid)
	case incompat&^incompatKnown != 0 || incompat&incompatExtents == 0:
		return fmt.Errorf("the ext4 file system has features %#x, and carte reads %#x: %w", incompat, incompatKnown, lab.ErrInvalid)
	case le.Uint32(sb[sbBlockBits:]) != 2:
		return fmt.Errorf("the ext4 file system has blocks of %d bytes, and carte reads %d (mke2fs -b 4096): %w", 1024<<min(le.Uint32(sb[sbBlockBits:]), 6), BlockSize, lab.ErrInvalid)
	case blocks*BlockSize > n.size, le.Uint32(sb[sbBlocksPerGroup:]) != blocksPerGroup, n.inode < 128 || n.inode > BlockSize || n.inode&(n.inode-1) != 0,
		n.perGroup == 0 || n.perGroup > maxInodesPerGroup, desc < descSize || desc > 1024 || BlockSize%desc != 0:
		return fmt.Errorf("ext4: the super block contradicts itself: %w", lab.ErrDamaged)
	}
	for g := range (blocks + blocksPerGroup - 1) / blocksPerGroup {
		b, err := n.r.read(BlockSize+g*desc, descSize)
		if err != nil {
			return err
		}
		n.tables = append(n.tables, int64(le.Uint32(b[8:]))*BlockSize)
	}
	return nil
}

func (n *nodeReader) raw(ino uint32) ([]byte, error) {
	if ino == 0 || int64(ino-1)/int64(n.perGroup) >= int64(len(n.tables)) {
		return nil, fmt.Errorf("ext4: there is no inode %d: %w", ino, lab.ErrDamaged)
	}
	return n.r.read(n.tables[(ino-1)/n.perGroup]+int64((ino-1)%n.perGroup)*int64(n.inode), int(n.inode))
}

// node reads an inode, and all below it.
func (n *nodeReader) node(ino uint32, name string) (*Node, error) {
	if known := n.seen[ino]; known != nil {
		if known.IsDir() {
			return nil, damagedAt(name, "a directory with two names")
		}
		return known, nil
	}
	if err := n.ctx.Err(); err != nil {
		return nil, err
	}
	b, err := n.raw(ino)
	if err != nil {
		return nil, err
	}
	b = slices.Clone(b)
	x := &Node{
		Path: name, Mode: le.Uint16(b[inMode:]), Time: timeOf(b),
		UID: uint32(le.Uint16(b[inUID:])) | uint32(le.Uint16(b[inUIDHi:]))<<16, GID: uint32(le.Uint16(b[inGID:])) | uint32(le.Uint16(b[inGIDHi:]))<<16,
	}
	n.seen[ino] = x
	if n.all = append(n.all, x); len(n.all) > maxOldFiles {
		return nil, damagedAt(name, fmt.Sprintf("there are more than %d files", maxOldFiles))
	}
	if le.Uint32(b[inFlags:])&(inlineFlag|encryptFlag) != 0 {
		return nil, fmt.Errorf("ext4: %q is encrypted, or lies in its inode; carte reads neither: %w", "/"+name, lab.ErrInvalid)
	}
	if x.Xattrs, err = n.xattrs(b); err != nil {
		return nil, damagedAt(name, err.Error())
	}
	if err := n.fill(x, b, name); err != nil {
		return nil, err
	}
	return x, nil
}

// fill reads what depends on the type.
func (n *nodeReader) fill(x *Node, b []byte, name string) error {
	size := int64(le.Uint32(b[inSize:])) | int64(le.Uint32(b[inSizeHi:]))<<32
	switch x.Mode & TypeMask {
	case TypeFile:
		x.Size = size
		runs, err := n.runs(b, size, name)
		x.Data = runs
		return err
	case TypeDir:
		x.Names = map[string]*Node{}
		return n.directory(x, b, size, name)
	case TypeLink:
		if size <= 0 || size > MaxLink {
			return damagedAt(name, "a symbolic link without an end")
		}
		if le.Uint32(b[inBlocks:]) == 0 || size <= smallLink && le.Uint32(b[inFlags:])&extentsFlag == 0 {
			x.Link = string(b[inBlock:][:min(size, smallLink)])
			return nil
		}
		runs, err := n.runs(b, size, name)
		if err != nil || len(runs) != 1 {
			return damagedAt(name, "a symbolic link that lies nowhere")
		}
		text, err := n.r.read(runs[0].From, int(size))
		x.Link = string(text)
		return err
	case TypeChar, TypeBlock:
		small, large := le.Uint32(b[inBlock:]), le.Uint32(b[inBlock+4:])
		x.Major, x.Minor = small>>8&0xff, small&0xff
		if small == 0 {
			x.Major, x.Minor = large>>8&0xfff, large&0xff|large>>12&^0xff
		}
	case TypeFIFO, TypeSocket:
	default:
		return damagedAt(name, fmt.Sprintf("a file of type %o", x.Mode&TypeMask))
	}
	return nil
}

// directory reads the names of a directory, in their order on the disk, and what they name.
func (n *nodeReader) directory(x *Node, b []byte, size int64, name string) error {
	if n.deep++; n.deep > maxDepth {
		return damagedAt(name, "too deep")
	}
	defer func() { n.deep-- }()
	if size > maxOldDir {
		return damagedAt(name, "too long")
	}
	runs, err := n.runs(b, size, name)
	if err != nil {
		return err
	}
	var below []entryOf
	for _, r := range runs {
		for at := int64(0); at < r.Bytes; at += BlockSize {
			block, err := n.r.read(r.From+at, BlockSize)
			if err != nil {
				return err
			}
			if below, err = entries(block, below); err != nil {
				return damagedAt(name, "a block of names")
			}
		}
	}
	for _, e := range below {
		if name == "" && e.name == lostFound {
			continue
		}
		child, err := n.node(e.ino, path.Join(name, e.name))
		if err != nil {
			return err
		}
		x.Names[e.name] = child
	}
	return nil
}

// runs says where a file's contents lie.
func (n *nodeReader) runs(b []byte, size int64, name string) ([]Run, error) {
	if le.Uint32(b[inFlags:])&extentsFlag == 0 {
		if size == 0 || le.Uint32(b[inBlocks:]) == 0 {
			return nil, nil
		}
		return nil, fmt.Errorf("ext4: %q is not in extents; carte reads what mke2fs -t ext4 has made: %w", "/"+name, lab.ErrInvalid)
	}
	var all []Run
	if err := n.tree(&all, b[inBlock:inBlock+extentSize*(extentsInInode+1)], maxTree, size); err != nil {
		return nil, damagedAt(name, err.Error())
	}
	slices.SortFunc(all, func(x, y Run) int { return int((x.At - y.At) / BlockSize) })
	end := int64(0)
	for _, r := range all {
		if r.At < end {
			return nil, damagedAt(name, "two pieces at one place")
		}
		end = r.At + r.Bytes
	}
	return all, nil
}

var errTree = errors.New("its extents contradict themselves")

// tree reads a node of an extent tree, whose depth must be less than most. What was promised and never written is a hole.
func (n *nodeReader) tree(all *[]Run, b []byte, most uint16, size int64) error {
	count, depth := int(le.Uint16(b[2:])), le.Uint16(b[6:])
	if le.Uint16(b) != extentMagic || depth >= most || extentSize*(count+1) > len(b) || len(*all) > 16*maxRuns {
		return errTree
	}
	for range count {
		b = b[extentSize:]
		if depth > 0 {
			below, err := n.r.read((int64(le.Uint32(b[4:]))|int64(le.Uint16(b[8:]))<<32)*BlockSize, BlockSize)
			if err != nil {
				return err
			}
			if err := n.tree(all, slices.Clone(below), depth, size); err != nil {
				return err
			}
			continue
		}
		length := int64(le.Uint16(b[4:]))
		if length > maxExtent {
			continue
		}
		r := Run{int64(le.Uint32(b)) * BlockSize, length * BlockSize, (int64(le.Uint32(b[8:])) | int64(le.Uint16(b[6:]))<<32) * BlockSize}
		if r.From+r.Bytes > n.size {
			return errTree
		}
		if r.Bytes = min(r.Bytes, size-r.At); r.Bytes > 0 {
			*all = append(*all, r)
		}
	}
	return nil
}

// timeOf is the time of an inode's last change of content.
func timeOf(b []byte) time.Time {
	seconds, more := int64(int32(le.Uint32(b[inMtime:]))), uint32(0)
	if len(b) > 128 && le.Uint16(b[inExtra:]) >= inMtimeMore+4-128 {
		more = le.Uint32(b[inMtimeMore:])
	}
	if seconds == 0 && more == 0 {
		return time.Time{}
	}
	return time.Unix(seconds+int64(more&3)<<32, int64(more>>2)).UTC()
}
