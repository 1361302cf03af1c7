package ext4

import (
	"time"
)

// Fields of an inode (kernel: Documentation/filesystems/ext4/inodes.rst).
const (
	inMode    = 0x00
	inUID     = 0x02
	inSize    = 0x04
	inAtime   = 0x08
	inCtime   = 0x0c
	inMtime   = 0x10
	inGID     = 0x18
	inLinks   = 0x1a
	inBlocks  = 0x1c
	inFlags   = 0x20
	inBlock   = 0x28
	inXattr   = 0x68
	inSizeHi  = 0x6c
	inBlockHi = 0x74
	inUIDHi   = 0x78
	inGIDHi   = 0x7a
	inExtra   = 0x80
)

// Where the parts of the times lie that do not fit into 32 bits, and the time of birth.
const (
	inCtimeMore = 0x84
	inMtimeMore = 0x88
	inAtimeMore = 0x8c
	inBirth     = 0x90
	inBirthMore = 0x94
)

const (
	extentsInInode = 4
	extentsInBlock = (BlockSize - extentSize) / extentSize
	extentSize     = 12 // of an entry, and of the header before them
	extentMagic    = 0xf30a
)

// inode encodes a node, and writes the blocks of its extent tree.
func (n *Node) encode(w *sticky) []byte {
	b := make([]byte, inodeSize)
	le.PutUint16(b[inMode:], n.Mode)
	le.PutUint16(b[inUID:], uint16(n.UID))
	le.PutUint16(b[inUIDHi:], uint16(n.UID>>16))
	le.PutUint16(b[inGID:], uint16(n.GID))
	le.PutUint16(b[inGIDHi:], uint16(n.GID>>16))
	le.PutUint16(b[inLinks:], uint16(n.links))
	le.PutUint16(b[inExtra:], extraIsize)
	seconds, more := stamp(n.Time)
	for _, at := range []int{inAtime, inCtime, inMtime, inBirth} {
		le.PutUint32(b[at:], seconds)
	}
	for _, at := range []int{inAtimeMore, inCtimeMore, inMtimeMore, inBirthMore} {
		le.PutUint32(b[at:], more)
	}
	size := n.Size
	switch n.Mode & TypeMask {
	case TypeDir:
		size = int64(n.need) * BlockSize
	case TypeLink:
		size = int64(len(n.Link))
		copy(b[inBlock:inBlock+smallLink], n.Link[:min(len(n.Link), smallLink)])
	case TypeFile:
	default:
		size = 0
		n.device(b[inBlock:])
	}
	le.PutUint32(b[inSize:], uint32(size))
	le.PutUint32(b[inSizeHi:], uint32(size>>32))
	if n.need > 0 || n.Mode&TypeMask == TypeFile {
		le.PutUint32(b[inFlags:], extentsFlag)
		n.extents(w, b[inBlock:inBlock+extentSize*(extentsInInode+1)])
	}
	blocks := uint64(n.need) + uint64(len(n.index))
	if n.xattr != 0 {
		le.PutUint32(b[inXattr:], n.xattr)
		blocks++
	}
	le.PutUint32(b[inBlocks:], uint32(blocks*(BlockSize/512)))
	le.PutUint16(b[inBlockHi:], uint16(blocks*(BlockSize/512)>>32))
	copy(b[128+extraIsize:], n.inline)
	return b
}

// device is what makes a device: 8 bits each where that is enough.
func (n *Node) device(b []byte) {
	switch t := n.Mode & TypeMask; {
	case t != TypeChar && t != TypeBlock:
	case n.Major < 256 && n.Minor < 256:
		le.PutUint32(b, n.Major<<8|n.Minor)
	default:
		le.PutUint32(b[4:], n.Minor&0xff|n.Major<<8|n.Minor&^0xff<<12)
	}
}

// stamp is a time as seconds since 1970 of 32 bits, and nanoseconds with two more bits of seconds below them. What is earlier than 1901 or later than
// 2446 is as near to it as it can be.
func stamp(t time.Time) (seconds, more uint32) {
	if t.IsZero() {
		return 0, 0
	}
	s, nano := t.Unix(), uint32(t.Nanosecond())
	if least, most := int64(-1)<<31, int64(1)<<34-1<<31-1; s < least || s > most {
		s, nano = min(max(s, least), most), 0
	}
	return uint32(s), nano<<2 | uint32((s-int64(int32(s)))>>32)&3
}

// extents writes the extent tree: its root into the inode, the rest into the blocks that were taken for it.
func (n *Node) extents(w *sticky, root []byte) {
	var level [][]byte
	for _, x := range n.mapped() {
		e := make([]byte, extentSize)
		le.PutUint32(e, x.at)
		le.PutUint16(e[4:], uint16(x.n))
		le.PutUint32(e[8:], x.first)
		level = append(level, e)
	}
	depth, blocks := uint16(0), n.index
	for len(level) > extentsInInode {
		var above [][]byte
		for len(level) > 0 {
			count := min(len(level), extentsInBlock)
			b := make([]byte, BlockSize)
			extentNode(b, level[:count], extentsInBlock, depth)
			w.at(b, int64(blocks[0])*BlockSize)
			e := make([]byte, extentSize)
			copy(e, level[0][:4])
			le.PutUint32(e[4:], blocks[0])
			above, level, blocks = append(above, e), level[count:], blocks[1:]
		}
		level, depth = above, depth+1
	}
	extentNode(root, level, extentsInInode, depth)
}

// extentNode writes a header and entries.
func extentNode(b []byte, entries [][]byte, most, depth uint16) {
	le.PutUint16(b, extentMagic)
	le.PutUint16(b[2:], uint16(len(entries)))
	le.PutUint16(b[4:], most)
	le.PutUint16(b[6:], depth)
	for i, e := range entries {
		copy(b[extentSize*(i+1):], e)
	}
}

// entryLength is the length of a directory's entry.
func entryLength(name string) int { return (8 + len(name) + 3) &^ 3 }

// directoryBlocks is how many blocks the entries need: none crosses the border of two.
func (n *Node) directoryBlocks() uint32 {
	blocks, left := uint32(1), BlockSize-entryLength(".")-entryLength("..")
	for _, name := range n.order {
		if left < entryLength(name) {
			blocks, left = blocks+1, BlockSize
		}
		left -= entryLength(name)
	}
	return blocks
}

// kinds are the types as directories say them.
var kinds = map[uint16]byte{TypeFile: 1, TypeDir: 2, TypeChar: 3, TypeBlock: 4, TypeFIFO: 5, TypeSocket: 6, TypeLink: 7}

// directory encodes a directory's blocks.
func (n *Node) directory(parent uint32) []byte {
	b := make([]byte, int(n.need)*BlockSize)
	at, last := 0, -1
	add := func(ino uint32, kind byte, name string) {
		if BlockSize-at%BlockSize < entryLength(name) || last >= 0 && at%BlockSize == 0 {
			end := roundUp(int64(last)+1, BlockSize)
			le.PutUint16(b[last+4:], uint16(int(end)-last))
			at = int(end)
		}
		e := b[at:]
		le.PutUint32(e, ino)
		le.PutUint16(e[4:], uint16(entryLength(name)))
		e[6], e[7] = byte(len(name)), kind
		copy(e[8:], name)
		last, at = at, at+entryLength(name)
	}
	add(n.ino, kinds[TypeDir], ".")
	add(parent, kinds[TypeDir], "..")
	for _, name := range n.order {
		child := n.Names[name]
		add(child.ino, kinds[child.Mode&TypeMask], name)
	}
	le.PutUint16(b[last+4:], uint16(len(b)-last))
	return b
}
