package ext4

import (
	"context"
	"fmt"
	"io"
	"path"

	"carte/lab"
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

var errForeign = fmt.Errorf("the file system is not one that carte has built: %w", lab.ErrInvalid)

// ReadOlder reads a file system of Build, which may have been written to since. An error says why its places cannot be kept; nothing is lost
// but that. Its memory grows with the number of files.
func ReadOlder(ctx context.Context, r io.ReaderAt, size int64) (*Older, error) {
	fs, err := Open(r, size)
	if err != nil {
		return nil, err
	}
	o := &oldReader{fs: fs, seen: map[uint32]*oldFile{}, Older: Older{size: size, files: map[string]*oldFile{}}}
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
	fs   *FS
	seen map[uint32]*oldFile
	deep int
}

// shape finds the layout, which follows from very little where Build has made it.
func (o *oldReader) shape() error {
	fs := o.fs
	if fs.incompat != incompatFileType|incompatExtents|incompatFlexBG || fs.inodeSize != inodeSize || int64(fs.blocks)*BlockSize != o.size || fs.perGroup%16 != 0 {
		return errForeign
	}
	p := layoutOf(emptyFiles, fs.blocks, fs.perGroup)
	desc, err := fs.r.read(BlockSize, descSize)
	if err != nil {
		return err
	}
	if p.end > fs.blocks || le.Uint32(desc) != p.tables || le.Uint32(desc[8:]) != p.data {
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
	in, err := o.fs.inode(ino)
	if err != nil {
		return err
	}
	f, err := o.file(ino, in)
	if err != nil {
		return err
	}
	o.files[name] = f
	below, err := o.fs.list(f.data)
	if err != nil {
		return err
	}
	for _, e := range below {
		if len(o.files) > maxOldFiles {
			return errForeign
		}
		at := path.Join(name, e.name)
		in, err := o.fs.inode(e.ino)
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

// file reads where one inode's blocks are.
func (o *oldReader) file(ino uint32, in []byte) (*oldFile, error) {
	data, index, err := o.fs.extents(in)
	if err != nil {
		return nil, err
	}
	f := &oldFile{ino: ino, data: data, index: index, xattr: le.Uint32(in[inXattr:])}
	o.seen[ino] = f
	return f, nil
}
