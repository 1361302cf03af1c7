package ext4

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"carte/lab"
)

// The types of files, as they are in Node.Mode (inode(7)).
const (
	TypeMask   = 0o170000
	TypeFIFO   = 0o010000
	TypeChar   = 0o020000
	TypeDir    = 0o040000
	TypeBlock  = 0o060000
	TypeFile   = 0o100000
	TypeLink   = 0o120000
	TypeSocket = 0o140000
)

// What a file system can hold.
const (
	MaxName    = 255   // bytes of a name
	MaxLink    = 4095  // bytes of what a symbolic link says
	maxLinks   = 65000 // names of a file, and directories in a directory
	smallLink  = 59    // bytes that fit into the inode
	maxExtent  = 32768 // blocks
	lostFound  = "lost+found"
	noLostMode = TypeDir | 0o700
)

// A Node is a file of any type. Names of the same node are hard links. The caller changes nothing while a Builder or an Image uses it.
type Node struct {
	Path         string // its first name, for errors, and to find it in an older file system; "" is the root
	Mode         uint16 // type and permissions
	UID, GID     uint32
	Time         time.Time         // of its last change; all other times are the same
	Xattrs       map[string][]byte // as getxattr(2) gives them
	Link         string            // of a symbolic link
	Major, Minor uint32            // of a device
	Size         int64             // of a regular file
	Data         []Run             // of a regular file, in order; zeros lie between them, and use no blocks
	Names        map[string]*Node  // of a directory

	ino    uint32
	links  int
	need   uint32   // blocks of content
	data   []extent // where they are
	index  []uint32 // blocks of the extent tree, outside the inode
	xattr  uint32   // its block of extended attributes; 0: none
	inline []byte   // extended attributes in the inode
	block  []byte   // extended attributes in the block
	order  []string // of a directory: its names in the order in which they lie there
}

// A Run is a piece of a file: Bytes at At, a multiple of BlockSize, which lie at From in the contents that Build is given.
type Run struct {
	At, Bytes, From int64
}

// IsDir says that the node is a directory.
func (n *Node) IsDir() bool { return n.Mode&TypeMask == TypeDir }

// extent is n blocks from first on. at is the block of the file, and from where in the contents the bytes are, where that is known.
type extent struct {
	at, first, n uint32
	blank        bool // of one that was read: it reads as zeros, whatever lies there
}

// Build plans an ext4 file system of the files below root: an ordinary one, with a journal, that is complete in every block. Nothing is written: the
// image is made while it is read, of what is in memory about each file (some hundred bytes) and of contents. The same files, options and older version
// give the same bytes. Files lie in the order of nodes, root first, in which every node comes once, and a directory before what is in it.
//
// opt.Size of 0 is what the files need, and room, in whole MiB. Places and size of an older version, if it is not
// nil, are kept as far as that is possible; see Older. The root gets a lost+found where it has none: every ext4 has one.
//
// lab.ErrInvalid: the options, a file that ext4 cannot hold, by name, or files that do not fit into the size.
func Build(nodes []*Node, contents io.ReaderAt, opt Options, older *Older) (*Image, error) {
	if err := opt.Check(); err != nil {
		return nil, err
	}
	b := &builder{nodes: nodes, older: older, contents: contents}
	if err := b.measure(); err != nil {
		return nil, err
	}
	if err := b.plan(&opt); err != nil {
		return nil, err
	}
	b.number()
	if err := b.place(); err != nil {
		return nil, err
	}
	return b.image(opt)
}

// builder is a file system that is being planned.
type builder struct {
	nodes    []*Node
	contents io.ReaderAt
	older    *Older
	was      map[*Node]*oldFile // the file that a node was in the older version

	blocks uint64 // that all files need
	layout layout
	free   []extent
}

// measure counts links and blocks, and finds what cannot be.
func (b *builder) measure() error {
	root := b.nodes[0]
	if !root.IsDir() {
		return fmt.Errorf("the root of a file system must be a directory: %w", lab.ErrInvalid)
	}
	switch lost := root.Names[lostFound]; {
	case lost == nil:
		lost = &Node{Path: lostFound, Mode: noLostMode, Time: root.Time}
		root.Names[lostFound] = lost
		b.nodes = append([]*Node{root, lost}, b.nodes[1:]...)
	case !lost.IsDir():
		return fmt.Errorf("%q: ext4 needs a directory of that name: %w", lostFound, lab.ErrInvalid)
	case !slices.Contains(b.nodes, lost): // of an earlier Build
		b.nodes = append([]*Node{root, lost}, b.nodes[1:]...)
	}
	for _, n := range b.nodes {
		n.links = 0
		n.order = slices.Sorted(maps.Keys(n.Names))
	}
	for _, n := range b.nodes {
		for name, child := range n.Names {
			if len(name) > MaxName {
				return fmt.Errorf("%q: a name of %d bytes, ext4 holds %d: %w", child.Path, len(name), MaxName, lab.ErrInvalid)
			}
			if child.IsDir() {
				child.links, n.links = child.links+2, n.links+1
			} else {
				child.links++
			}
		}
	}
	root.links += 2
	for _, n := range b.nodes {
		if n.links > maxLinks {
			return fmt.Errorf("%q has %d names or directories, ext4 holds %d: %w", n.Path, n.links, maxLinks, lab.ErrInvalid)
		}
		var err error
		if n.inline, n.block, err = encodeXattrs(n.Xattrs); err != nil {
			return fmt.Errorf("%q: %w: %w", n.Path, err, lab.ErrInvalid)
		}
		if err := n.measure(); err != nil {
			return err
		}
		b.blocks += uint64(n.need) + uint64(treeBlocks(len(n.Data)+int(n.need/maxExtent)))
		if n.block != nil {
			b.blocks++
		}
	}
	return nil
}

// measure counts the blocks of a node's content.
func (n *Node) measure() error {
	n.need = 0
	switch n.Mode & TypeMask {
	case TypeFile:
		end := int64(0)
		for _, r := range n.Data {
			if r.At%BlockSize != 0 || r.At < end || r.Bytes <= 0 || r.At+r.Bytes > n.Size {
				panic("BUG: pieces of a file that are not in order")
			}
			if end = (r.At + r.Bytes + BlockSize - 1) &^ (BlockSize - 1); end > MaxSize {
				return fmt.Errorf("%q has %d bytes, and the largest file system %d: %w", n.Path, n.Size, int64(MaxSize), lab.ErrInvalid)
			}
			n.need += uint32((end - r.At) / BlockSize)
		}
		if n.Size > MaxSize {
			return fmt.Errorf("%q has %d bytes, and the largest file system %d: %w", n.Path, n.Size, int64(MaxSize), lab.ErrInvalid)
		}
	case TypeLink:
		if len(n.Link) == 0 || len(n.Link) > MaxLink {
			return fmt.Errorf("%q: a symbolic link of %d bytes, ext4 holds 1 to %d: %w", n.Path, len(n.Link), MaxLink, lab.ErrInvalid)
		}
		if len(n.Link) > smallLink {
			n.need = 1
		}
	case TypeDir:
		n.need = n.directoryBlocks()
	case TypeChar, TypeBlock:
		if n.Major > 0xfff || n.Minor > 0xfffff {
			return fmt.Errorf("%q: device %d:%d, Linux counts to 4095:1048575: %w", n.Path, n.Major, n.Minor, lab.ErrInvalid)
		}
	case TypeFIFO, TypeSocket:
	default:
		return fmt.Errorf("%q: a file of type %o: %w", n.Path, n.Mode&TypeMask, lab.ErrInvalid)
	}
	return nil
}

// treeBlocks is how many blocks of an extent tree lie outside the inode, for n extents.
func treeBlocks(n int) (all int) {
	for n > extentsInInode {
		n = (n + extentsInBlock - 1) / extentsInBlock
		all += n
	}
	return all
}

// plan chooses size and inodes.
func (b *builder) plan(opt *Options) error {
	inodes := uint32(len(b.nodes)) + firstInode
	size := opt.Size
	if b.older != nil && (size == 0 || size == b.older.size) && b.fits(b.older.layout, inodes) {
		opt.Size, b.layout = b.older.size, b.older.layout
		return nil
	}
	b.older = nil
	if size == 0 {
		need := int64(b.blocks) * BlockSize
		room := max(need/4, cmp.Or(opt.Room, defaultRoom))
		size = max(need+room, (int64(inodes)*5/4/maxInodesPerGroup+1)*blocksPerGroup*BlockSize)
		for range 2 { // what describes the groups grows with them
			if p, err := planLayout(emptyFiles, inodes, roundUp(size, 1<<20)); err == nil {
				size = max(size, need+room+int64(p.end)*BlockSize)
			}
		}
		opt.Size = roundUp(size, 1<<20)
		if opt.Size > MaxSize {
			return fmt.Errorf("the files need %d bytes, and the largest file system has %d: %w", need, int64(MaxSize), lab.ErrInvalid)
		}
	}
	p, err := planLayout(emptyFiles, inodes, opt.Size)
	if err != nil {
		return err
	}
	if need := uint64(p.end) + b.blocks; need > uint64(p.blocks) {
		return tooSmall(int64(need)*BlockSize, opt.Size)
	}
	b.layout = p
	return nil
}

// fits says that the files fit into an older layout, with some room that is left.
func (b *builder) fits(p layout, inodes uint32) bool {
	return uint64(p.end)+b.blocks+min(b.blocks/8, defaultRoom/2/BlockSize) <= uint64(p.blocks) && inodes+inodes/8 <= p.groups*p.inodesPerGroup
}

const (
	defaultRoom = 256 << 20
	emptyFiles  = 1 + reservedBlocks // behind super block and descriptors
)

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

// number gives every node its inode: the one that it had, or the lowest that is free.
func (b *builder) number() {
	b.was = map[*Node]*oldFile{}
	taken := map[uint32]bool{}
	for _, n := range b.nodes {
		n.ino = 0
	}
	give := func(n *Node, ino uint32) { n.ino, taken[ino] = ino, true }
	root := b.nodes[0]
	give(root, rootInode)
	give(root.Names[lostFound], lostFoundInode)
	if b.older != nil {
		for _, n := range b.nodes {
			old := b.older.files[n.Path]
			if old == nil || n.ino == 0 && taken[old.ino] || n.ino != 0 && n.ino != old.ino {
				continue
			}
			give(n, old.ino)
			b.was[n] = old
		}
	}
	next := uint32(firstInode + 1)
	for _, n := range b.nodes {
		if n.ino != 0 {
			continue
		}
		for taken[next] {
			next++
		}
		give(n, next)
	}
	for _, n := range b.nodes {
		slices.SortFunc(n.order, func(x, y string) int { // the newest last: the blocks before stay
			return cmp.Or(cmp.Compare(n.Names[x].ino, n.Names[y].ino), cmp.Compare(x, y))
		})
		if n.IsDir() {
			n.need = n.directoryBlocks() // entries fill blocks differently in another order
		}
	}
}
