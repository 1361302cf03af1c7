package ext4

import (
	"cmp"
	"context"
	"io"
	"slices"
)

// An Image is a file system that is made while it is read. It may be read at any place, by any number of goroutines if contents may.
type Image struct {
	Size  int64 // bytes
	Files int   // inodes in use, without lost+found if it was made here
	sheet sheet
	data  []piece // by block
	from  io.ReaderAt
}

// piece is a part of a file: n bytes that begin with a block.
type piece struct {
	first uint32
	n     int64
	from  int64
}

// sheet holds what describes files, by block.
type sheet map[uint32][]byte

// WriteAt never fails. What it is given is whole blocks, or lies inside of one.
func (s sheet) WriteAt(p []byte, off int64) (int, error) {
	all := len(p)
	for len(p) > 0 {
		block, in := uint32(off/BlockSize), int(off%BlockSize)
		if s[block] == nil {
			s[block] = make([]byte, BlockSize)
		}
		n := copy(s[block][in:], p)
		p, off = p[n:], off+int64(n)
	}
	return all, nil
}

// image writes all that describes the files, and lists where they are.
func (b *builder) image(opt Options) (*Image, error) {
	im := &Image{Size: opt.Size, Files: len(b.nodes), sheet: sheet{}, from: b.contents}
	w := &sticky{w: im.sheet}
	count := max(firstInode, uint32(len(b.nodes)))
	for _, n := range b.nodes {
		count = max(count, n.ino)
	}
	used, dirs := make([]bool, count), make([]bool, count)
	for i := range firstInode {
		used[i] = true
	}
	parents := map[*Node]uint32{b.nodes[0]: rootInode}
	for _, n := range b.nodes {
		for _, child := range n.Names {
			parents[child] = n.ino
		}
	}
	tables := int64(b.layout.data) * BlockSize
	for _, n := range b.nodes {
		used[n.ino-1], dirs[n.ino-1] = true, n.IsDir()
		w.at(n.encode(w), tables+int64(n.ino-1)*inodeSize)
		if n.xattr != 0 {
			w.at(n.block, int64(n.xattr)*BlockSize)
		}
		switch {
		case n.IsDir():
			text := n.directory(parents[n])
			for _, x := range n.mapped() {
				w.at(text[int64(x.at)*BlockSize:int64(x.at+x.n)*BlockSize], int64(x.first)*BlockSize)
			}
		case n.Mode&TypeMask == TypeLink && n.need > 0:
			w.at([]byte(n.Link), int64(n.data[0].first)*BlockSize)
		case n.Mode&TypeMask == TypeFile:
			im.pieces(n)
		}
	}
	slices.SortFunc(im.data, func(x, y piece) int { return cmp.Compare(x.first, y.first) })
	sb := emptySuper()
	freeBlocks, freeInodes := b.layout.writeGroups(w, used, dirs)
	if b.layout.journal > 0 {
		b.layout.writeJournal(w, sb, opt.UUID)
	}
	b.layout.writeSuper(w, sb, opt, freeBlocks, freeInodes)
	return im, w.err
}

// pieces notes where a file's content goes.
func (im *Image) pieces(n *Node) {
	runs := n.Data
	for _, x := range n.mapped() {
		at, end := int64(x.at)*BlockSize, int64(x.at+x.n)*BlockSize
		first := int64(x.first) * BlockSize
		for ; len(runs) > 0 && runs[0].At < end; runs = runs[1:] {
			r := runs[0]
			from, to := max(r.At, at), min(r.At+r.Bytes, end)
			if to > from {
				im.data = append(im.data, piece{uint32((first + from - at) / BlockSize), to - from, r.From + from - r.At})
			}
			if r.At+r.Bytes > end { // goes on in the next
				break
			}
		}
	}
}

// ReadAt is io.ReaderAt.
func (im *Image) ReadAt(p []byte, off int64) (n int, err error) {
	if off >= im.Size {
		return 0, io.EOF
	}
	if rest := im.Size - off; int64(len(p)) > rest {
		p, err = p[:rest], io.EOF
	}
	for n < len(p) {
		count, e := im.some(p[n:], off+int64(n))
		if n += count; e != nil {
			return n, e
		}
	}
	return n, err
}

// some reads up to the next border of anything.
func (im *Image) some(p []byte, off int64) (int, error) {
	block, in := uint32(off/BlockSize), off%BlockSize
	if b := im.sheet[block]; b != nil {
		return copy(p, b[in:]), nil
	}
	i, exact := slices.BinarySearchFunc(im.data, block, func(x piece, b uint32) int { return cmp.Compare(x.first, b) })
	if !exact {
		i--
	}
	if i >= 0 {
		x := im.data[i]
		if at := off - int64(x.first)*BlockSize; at < x.n {
			p = p[:min(int64(len(p)), x.n-at)]
			n, err := im.from.ReadAt(p, x.from+at)
			if n == len(p) {
				err = nil
			} else if err == io.EOF || err == nil {
				err = io.ErrUnexpectedEOF
			}
			return n, err
		}
	}
	p = p[:min(int64(len(p)), BlockSize-in)]
	clear(p)
	return len(p), nil
}

// WriteTo writes the image to the beginning of w, where all of it must read as zeros, and leaves out what is zero. w is told no end: cut it there.
func (im *Image) WriteTo(ctx context.Context, w io.WriterAt) error {
	blocks := make([]uint32, 0, len(im.sheet))
	for b := range im.sheet {
		blocks = append(blocks, b)
	}
	slices.Sort(blocks)
	for _, b := range blocks {
		if _, err := w.WriteAt(im.sheet[b], int64(b)*BlockSize); err != nil {
			return err
		}
	}
	buf := make([]byte, 1<<20)
	for _, x := range im.data {
		for done := int64(0); done < x.n; {
			if err := ctx.Err(); err != nil {
				return err
			}
			off := int64(x.first)*BlockSize + done
			n, err := im.ReadAt(buf[:min(int64(len(buf)), x.n-done)], off)
			if err == nil || err == io.EOF {
				_, err = w.WriteAt(buf[:n], off)
			}
			if err != nil {
				return err
			}
			done += int64(n)
		}
	}
	return nil
}
