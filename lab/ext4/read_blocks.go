package ext4

import (
	"io"
	"slices"
)

// Limits for what is read: more is somebody's joke.
const (
	maxOldFiles = 4 << 20
	maxOldDir   = 64 << 20
	maxDepth    = 200
	maxRuns     = 1 << 16 // of one file
	maxTree     = 5       // how high an extent tree may be
)

type entryOf struct {
	ino  uint32
	name string
}

// list reads the blocks of a directory.
func (f *FS) list(data []extent) (all []entryOf, err error) {
	n := uint32(0)
	for _, x := range data {
		if n += x.n; n > maxOldDir/BlockSize {
			return nil, errForeign
		}
		for i := range x.n {
			b, err := f.r.read(int64(x.first+i)*BlockSize, BlockSize)
			if err != nil {
				return nil, err
			}
			if all, err = entries(b, all); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
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

// inode returns the bytes of an inode.
func (f *FS) inode(ino uint32) ([]byte, error) {
	if ino == 0 || ino > f.inodes {
		return nil, errForeign
	}
	group, in := (ino-1)/f.perGroup, (ino-1)%f.perGroup
	desc, err := f.r.read(BlockSize+int64(group)*int64(f.descSize), f.descSize)
	if err != nil {
		return nil, err
	}
	table := le.Uint32(desc[8:])
	if table >= f.blocks {
		return nil, errForeign
	}
	return f.r.read(int64(table)*BlockSize+int64(in)*int64(f.inodeSize), f.inodeSize)
}

// extents reads where an inode's blocks are, and those of its extent tree by their height, as they are written. An inode without a tree has neither.
func (f *FS) extents(in []byte) (data []extent, index []uint32, err error) {
	if le.Uint32(in[inFlags:])&extentsFlag == 0 {
		return nil, nil, nil
	}
	t := tree{fs: f}
	if err := t.read(in[inBlock:inBlock+extentSize*(extentsInInode+1)], maxTree); err != nil {
		return nil, nil, err
	}
	return t.data, slices.Concat(t.index[:]...), nil
}

// tree is an extent tree that is being read.
type tree struct {
	fs    *FS
	data  []extent
	index [maxTree][]uint32
}

// read reads a node. Its depth must be less than most.
func (t *tree) read(b []byte, most uint16) error {
	n, depth := int(le.Uint16(b[2:])), le.Uint16(b[6:])
	if le.Uint16(b) != extentMagic || depth >= most || extentSize*(n+1) > len(b) || len(t.data)+len(t.index[0]) > maxRuns {
		return errForeign
	}
	for ; n > 0; n-- {
		b = b[extentSize:]
		if depth == 0 {
			x := extent{at: le.Uint32(b), first: le.Uint32(b[8:]), n: uint32(le.Uint16(b[4:]))}
			if x.n > maxExtent { // it was written to, and this is promised only
				x.n, x.blank = x.n-maxExtent, true
			}
			if uint64(x.first)+uint64(x.n) > uint64(t.fs.blocks) {
				return errForeign
			}
			t.data = append(t.data, x)
			continue
		}
		block := le.Uint32(b[4:])
		below, err := t.fs.r.read(int64(block)*BlockSize, BlockSize)
		if err != nil {
			return err
		}
		t.index[depth-1] = append(t.index[depth-1], block)
		if err := t.read(below, depth); err != nil {
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
