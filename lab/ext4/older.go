package ext4

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
)

// Older is an earlier version of a file system: which file lies where. A newer version that is built with it leaves unchanged files where they are, so
// that few blocks differ: a file keeps its inode and its blocks if they are enough for what it is now, and what no longer fits goes into gaps.
type Older struct {
	size   int64
	layout layout
	files  map[string]*oldFile // by path
}

// oldFile is where a file was.
type oldFile struct {
	ino   uint32
	data  []extent
	index []uint32
	xattr uint32
}

var errForeign = errors.New("the file system is not one that carte has built")

// Limits for what is read: more is somebody's joke.
const (
	maxOldFiles = 4 << 20
	maxOldDir   = 64 << 20
	maxDepth    = 200
	maxRuns     = 1 << 16 // of one file
)

// ReadOlder reads a file system of Build, which may have been written to since. An error says why its places cannot be kept; nothing is lost
// but that. Its memory grows with the number of files.
func ReadOlder(ctx context.Context, r io.ReaderAt, size int64) (*Older, error) {
	o := &oldReader{r: &pieces{r: r, have: map[int64][]byte{}}, seen: map[uint32]*oldFile{}, Older: Older{size: size, files: map[string]*oldFile{}}}
	if err := o.shape(); err != nil {
		return nil, err
	}
	if err := o.directory(ctx, rootInode, ""); err != nil {
		return nil, fmt.Errorf("ext4: read the places of files: %w", err)
	}
	return &o.Older, nil
}

type oldReader struct {
	Older
	r    *pieces
	seen map[uint32]*oldFile
	deep int
}

// shape finds the layout, which follows from very little where Build has made it.
func (o *oldReader) shape() error {
	sb, err := o.r.read(sbAt, sbSize)
	if err != nil {
		return err
	}
	blocks, perGroup := le.Uint32(sb[sbBlocks:]), le.Uint32(sb[sbInodesPerGroup:])
	if le.Uint16(sb[sbMagic:]) != magic || le.Uint32(sb[sbBlockBits:]) != 2 || le.Uint16(sb[sbInodeSize:]) != inodeSize || le.Uint32(sb[sbBlocksPerGroup:]) != blocksPerGroup ||
		le.Uint32(sb[sbIncompat:]) != incompatFileType|incompatExtents|incompatFlexBG || int64(blocks)*BlockSize != o.size ||
		perGroup == 0 || perGroup > maxInodesPerGroup || perGroup%16 != 0 {
		return errForeign
	}
	p := layoutOf(emptyFiles, blocks, perGroup)
	desc, err := o.r.read(BlockSize, descSize)
	if err != nil {
		return err
	}
	if p.end > blocks || le.Uint32(desc) != p.tables || le.Uint32(desc[8:]) != p.data {
		return errForeign
	}
	o.layout = p
	return nil
}

// directory reads a directory and all below it.
func (o *oldReader) directory(ctx context.Context, ino uint32, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if o.deep++; o.deep > maxDepth {
		return errForeign
	}
	defer func() { o.deep-- }()
	in, err := o.inode(ino)
	if err != nil {
		return err
	}
	f, err := o.file(ino, in)
	if err != nil {
		return err
	}
	o.files[name] = f
	var below []entryOf
	for _, x := range f.data {
		for i := range x.n {
			b, err := o.r.read(int64(x.first+i)*BlockSize, BlockSize)
			if err != nil {
				return err
			}
			if below, err = entries(b, below); err != nil {
				return err
			}
		}
	}
	for _, e := range below {
		if len(o.files) > maxOldFiles {
			return errForeign
		}
		at := path.Join(name, e.name)
		in, err := o.inode(e.ino)
		if err != nil {
			return err
		}
		switch known := o.seen[e.ino]; {
		case le.Uint16(in)&TypeMask == TypeDir && known != nil:
			return errForeign // a circle
		case le.Uint16(in)&TypeMask == TypeDir:
			err = o.directory(ctx, e.ino, at)
		case known != nil:
			o.files[at] = known
		default:
			o.files[at], err = o.file(e.ino, in)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

type entryOf struct {
	ino  uint32
	name string
}

// entries reads a block of a directory.
func entries(b []byte, all []entryOf) ([]entryOf, error) {
	for len(b) >= 8 {
		length, n := int(le.Uint16(b[4:])), int(b[6])
		if length < 8 || length > len(b) || 8+n > length {
			return nil, errForeign
		}
		if name := string(b[8 : 8+n]); le.Uint32(b) != 0 && name != "." && name != ".." {
			all = append(all, entryOf{le.Uint32(b), name})
		}
		b = b[length:]
	}
	return all, nil
}

func (o *oldReader) inode(ino uint32) ([]byte, error) {
	if ino == 0 || ino > o.layout.groups*o.layout.inodesPerGroup {
		return nil, errForeign
	}
	return o.r.read(int64(o.layout.data)*BlockSize+int64(ino-1)*inodeSize, inodeSize)
}

// file reads where one inode's blocks are.
func (o *oldReader) file(ino uint32, in []byte) (*oldFile, error) {
	f := &oldFile{ino: ino, xattr: le.Uint32(in[inXattr:])}
	o.seen[ino] = f
	if le.Uint32(in[inFlags:])&extentsFlag == 0 {
		return f, nil
	}
	var index [maxTree][]uint32 // by their height, as they are written
	if err := o.tree(f, &index, in[inBlock:inBlock+extentSize*(extentsInInode+1)], maxTree); err != nil {
		return nil, err
	}
	f.index = slices.Concat(index[:]...)
	if le.Uint16(in)&TypeMask == TypeDir {
		n := uint32(0)
		for _, x := range f.data {
			if n += x.n; n > maxOldDir/BlockSize {
				return nil, errForeign
			}
		}
	}
	return f, nil
}

// maxTree is how high an extent tree may be.
const maxTree = 5

// tree reads a node of an extent tree. Its depth must be less than most.
func (o *oldReader) tree(f *oldFile, index *[maxTree][]uint32, b []byte, most uint16) error {
	n, depth := int(le.Uint16(b[2:])), le.Uint16(b[6:])
	if le.Uint16(b) != extentMagic || depth >= most || extentSize*(n+1) > len(b) || len(f.data)+len(index[0]) > maxRuns {
		return errForeign
	}
	for ; n > 0; n-- {
		b = b[extentSize:]
		if depth == 0 {
			x := extent{at: le.Uint32(b), first: le.Uint32(b[8:]), n: uint32(le.Uint16(b[4:]))}
			if x.n > maxExtent { // it was written to, and this is promised only
				x.n -= maxExtent
			}
			if uint64(x.first)+uint64(x.n) > uint64(o.layout.blocks) {
				return errForeign
			}
			f.data = append(f.data, x)
			continue
		}
		block := le.Uint32(b[4:])
		below, err := o.r.read(int64(block)*BlockSize, BlockSize)
		if err != nil {
			return err
		}
		index[depth-1] = append(index[depth-1], block)
		if err := o.tree(f, index, below, depth); err != nil {
			return err
		}
	}
	return nil
}

// pieces reads small parts of something that is read in large ones.
type pieces struct {
	r    io.ReaderAt
	have map[int64][]byte
	last []int64 // in the order in which they came
}

const (
	pieceSize = 256 << 10
	maxPieces = 64
)

// read returns n bytes at off, which do not cross the border of two pieces.
func (p *pieces) read(off int64, n int) ([]byte, error) {
	i := off / pieceSize
	b, ok := p.have[i]
	if !ok {
		b = make([]byte, pieceSize)
		got, err := p.r.ReadAt(b, i*pieceSize)
		if err != nil && err != io.EOF {
			return nil, err
		}
		b = b[:got]
		if len(p.last) == maxPieces {
			delete(p.have, p.last[0])
			p.last = p.last[1:]
		}
		p.have[i], p.last = b, append(p.last, i)
	}
	if at := int(off % pieceSize); at+n <= len(b) {
		return b[at : at+n], nil
	}
	return nil, io.ErrUnexpectedEOF
}
