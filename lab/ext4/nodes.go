package ext4

import (
	"context"
	"fmt"
	"path"
	"slices"
	"time"

	"carte/lab"
)

const (
	inlineFlag  = 0x10000000
	encryptFlag = 0x800
)

// Nodes reads everything that a file system holds, root first, as Build takes it; lost+found of the root is left out. Contents are not read: Data says
// where in the file system they lie. lab.ErrInvalid: it cannot be read, and why; lab.ErrDamaged: it contradicts itself. Memory grows with the number of
// files.
func (f *FS) Nodes(ctx context.Context) ([]*Node, error) {
	if f.incompat&incompatRecover != 0 {
		return nil, fmt.Errorf("the ext4 file system was not unmounted cleanly; e2fsck, or mounting it once, puts it right: %w", lab.ErrInvalid)
	}
	n := &nodeReader{fs: f, ctx: ctx, seen: map[uint32]*Node{}}
	if _, err := n.node(rootInode, ""); err != nil {
		return nil, err
	}
	return n.all, nil
}

type nodeReader struct {
	fs   *FS
	ctx  context.Context
	seen map[uint32]*Node
	all  []*Node
	deep int
}

func damagedAt(name, what string) error {
	return fmt.Errorf("ext4: %q: %s: %w", "/"+name, what, lab.ErrDamaged)
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
	b, err := n.fs.inode(ino)
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
	size := sizeOf(b)
	switch x.Mode & TypeMask {
	case TypeFile:
		x.Size = size
		runs, err := n.runs(b, size, name)
		x.Data = runs
		return err
	case TypeDir:
		x.Names = map[string]*Node{}
		return n.directory(x, b, name)
	case TypeLink:
		text, err := n.fs.link(b)
		if x.Link = text; err != nil {
			return damagedAt(name, "a symbolic link that lies nowhere")
		}
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
func (n *nodeReader) directory(x *Node, b []byte, name string) error {
	if n.deep++; n.deep > maxDepth {
		return damagedAt(name, "too deep")
	}
	defer func() { n.deep-- }()
	below, err := n.fs.below(b)
	if err != nil {
		return damagedAt(name, "a block of names")
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
	all, err := n.fs.runs(b, size)
	if err != nil {
		return nil, damagedAt(name, "its pieces contradict themselves")
	}
	return all, nil
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
