package ext4

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"carte/lab"
)

// FS is an ext4 file system that is read where it lies, without mounting it. One goroutine at a time. It keeps up to 16 MiB of what it read.
type FS struct {
	r         *pieces
	size      int64
	blocks    uint32
	inodes    uint32
	perGroup  uint32 // inodes of a group
	inodeSize int
	descSize  int
	incompat  uint32
}

// What a file system may do and is read nevertheless: besides what is written here, what mke2fs and the kernel add of themselves.
const (
	incompatRecover  = 0x4
	incompat64Bit    = 0x80
	incompatSumSeed  = 0x2000
	incompatLargeDir = 0x4000

	incompatRead = incompatFileType | incompatExtents | incompatFlexBG | incompatRecover | incompat64Bit | incompatSumSeed | incompatLargeDir

	sbBlocksHi = 0x150
	sbDescSize = 0xfe
)

// Open looks at the super block of a file system of size bytes, such as Build makes; others are read too, where they have blocks of 4096 bytes and
// extents. Whatever is still in a journal is not seen. lab.ErrInvalid: it is none that can be read here. Nothing needs to be closed.
func Open(r io.ReaderAt, size int64) (*FS, error) {
	f := &FS{r: &pieces{r: r, have: map[int64][]byte{}}, size: size}
	sb, err := f.r.read(sbAt, sbSize)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("ext4: %d bytes are too short: %w", size, errForeign)
	}
	if err != nil {
		return nil, fmt.Errorf("ext4: %w", err)
	}
	f.blocks, f.inodes, f.perGroup = le.Uint32(sb[sbBlocks:]), le.Uint32(sb[sbInodes:]), le.Uint32(sb[sbInodesPerGroup:])
	f.inodeSize, f.descSize, f.incompat = int(le.Uint16(sb[sbInodeSize:])), descSize, le.Uint32(sb[sbIncompat:])
	if f.incompat&incompat64Bit != 0 {
		f.descSize = int(le.Uint16(sb[sbDescSize:]))
	}
	switch {
	case le.Uint16(sb[sbMagic:]) != magic, le.Uint32(sb[sbBlockBits:]) != 2, le.Uint32(sb[sbBlocksPerGroup:]) != blocksPerGroup:
	case f.inodeSize != 256 && f.inodeSize != 512 && f.inodeSize != 1024, f.descSize != 32 && f.descSize != 64:
	case f.incompat&^incompatRead != 0, f.incompat&incompatExtents == 0, f.incompat&incompat64Bit != 0 && le.Uint32(sb[sbBlocksHi:]) != 0:
	case int64(f.blocks)*BlockSize > size, f.perGroup == 0, f.perGroup > maxInodesPerGroup:
	default:
		return f, nil
	}
	return nil, fmt.Errorf("ext4: %w", errForeign)
}

// errNoFile is the error of a name that is not there.
func errNoFile(name string) error { return fmt.Errorf("%s: %w", name, lab.ErrNotFound) }

// maxFollow is how many symbolic links may lead to one file, as in the kernel.
const maxFollow = 40

// ReadFile returns a file's content. Symbolic links on the way are followed as with this file system as the root. lab.ErrNotFound: there is no such
// file. lab.ErrInvalid: it is no regular file, has more than most bytes, or its links lead nowhere.
func (f *FS) ReadFile(path string, most int64) ([]byte, error) {
	in, err := f.find(path)
	if err != nil {
		return nil, err
	}
	size := sizeOf(in)
	switch {
	case le.Uint16(in[inMode:])&TypeMask != TypeFile:
		return nil, fmt.Errorf("%s is no regular file: %w", path, lab.ErrInvalid)
	case size > most || size < 0:
		return nil, fmt.Errorf("%s has %d bytes, and %d are the most that are read here: %w", path, size, most, lab.ErrInvalid)
	}
	b, err := f.content(in, size)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return b, nil
}

// content reads size bytes of an inode.
func (f *FS) content(in []byte, size int64) ([]byte, error) {
	runs, err := f.runs(in, size)
	if err != nil {
		return nil, err
	}
	b := make([]byte, size)
	for _, r := range runs {
		if n, err := f.r.r.ReadAt(b[r.At:r.At+r.Bytes], r.From); int64(n) < r.Bytes {
			return nil, cmp.Or(err, io.ErrUnexpectedEOF)
		}
	}
	return b, nil
}

// runs says where an inode's bytes lie in the file system, in order.
func (f *FS) runs(in []byte, size int64) (all []Run, err error) {
	if le.Uint32(in[inFlags:])&extentsFlag == 0 && size > 0 {
		return nil, errForeign // blocks of before extents, or bytes in the inode
	}
	data, _, err := f.extents(in)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(data, func(a, b extent) int { return cmp.Compare(a.at, b.at) })
	end := int64(0)
	for _, x := range data {
		at := int64(x.at) * BlockSize
		n := min(int64(x.n)*BlockSize, size-at)
		if at < end {
			return nil, errForeign
		}
		if x.blank || n <= 0 {
			continue
		}
		all, end = append(all, Run{At: at, Bytes: n, From: int64(x.first) * BlockSize}), at+n
	}
	return all, nil
}

func sizeOf(in []byte) int64 {
	return int64(le.Uint32(in[inSize:])) | int64(le.Uint32(in[inSizeHi:]))<<32
}

// find returns the inode that a path leads to, as the kernel would follow it with this file system as its root.
func (f *FS) find(path string) ([]byte, error) {
	parts := strings.Split(path, "/")
	trail := []uint32{rootInode}
	for links := 0; len(parts) > 0; {
		part := parts[0]
		parts = parts[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			trail = trail[:max(1, len(trail)-1)]
			continue
		}
		ino, err := f.lookup(trail[len(trail)-1], part)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if ino == 0 {
			return nil, errNoFile(path)
		}
		in, err := f.inode(ino)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if le.Uint16(in[inMode:])&TypeMask != TypeLink {
			trail = append(trail, ino)
			continue
		}
		if links++; links > maxFollow {
			return nil, fmt.Errorf("%s: its links lead in a circle: %w", path, lab.ErrInvalid)
		}
		to, err := f.link(in)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if strings.HasPrefix(to, "/") {
			trail = trail[:1]
		}
		parts = append(strings.Split(to, "/"), parts...)
	}
	return f.inode(trail[len(trail)-1])
}

// lookup finds a name in a directory; 0: it is not there, or this is no directory.
func (f *FS) lookup(dir uint32, name string) (uint32, error) {
	in, err := f.inode(dir)
	if err != nil || le.Uint16(in[inMode:])&TypeMask != TypeDir {
		return 0, err
	}
	all, err := f.below(in)
	if err != nil {
		return 0, err
	}
	if i := slices.IndexFunc(all, func(e entryOf) bool { return e.name == name }); i >= 0 {
		return all[i].ino, nil
	}
	return 0, nil
}

// below lists a directory.
func (f *FS) below(in []byte) ([]entryOf, error) {
	data, _, err := f.extents(in)
	if err != nil {
		return nil, err
	}
	return f.list(data)
}

// link returns what a symbolic link says.
func (f *FS) link(in []byte) (string, error) {
	n := sizeOf(in)
	switch {
	case n <= 0 || n > MaxLink:
		return "", errForeign
	case le.Uint32(in[inFlags:])&extentsFlag == 0 && n <= smallLink:
		return string(in[inBlock : inBlock+n]), nil
	}
	b, err := f.content(in, n)
	return string(b), err
}

// Walk tells every file: its absolute path, its type and permissions as stat(2) has them in st_mode (see TypeMask), and its size in bytes, 0 for what is
// no regular file. A directory comes before what is in it, names of one directory come sorted, "/" is left out, and a file with several names comes
// once for each. An error of each ends the walk and is returned; fs.SkipDir, for a directory, leaves out what is in it.
func (f *FS) Walk(each func(path string, mode uint32, size int64) error) error {
	in, err := f.inode(rootInode)
	if err != nil {
		return err
	}
	w := walker{f: f, each: each, dirs: map[uint32]bool{rootInode: true}}
	if err := w.walk("", in); !errors.Is(err, fs.SkipDir) {
		return err
	}
	return nil
}

// walker is one walk.
type walker struct {
	f     *FS
	each  func(path string, mode uint32, size int64) error
	dirs  map[uint32]bool // that were seen: one that comes again is a circle
	files int
	deep  int
}

func (w *walker) walk(path string, dir []byte) error {
	if w.deep++; w.deep > maxDepth {
		return fmt.Errorf("%s: %w", path, errForeign)
	}
	defer func() { w.deep-- }()
	all, err := w.f.below(dir)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	slices.SortFunc(all, func(a, b entryOf) int { return cmp.Compare(a.name, b.name) })
	for _, e := range all {
		at := path + "/" + e.name
		in, err := w.f.inode(e.ino)
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		mode, size := le.Uint16(in[inMode:]), int64(0)
		if mode&TypeMask == TypeFile {
			size = sizeOf(in)
		}
		if w.files++; w.files > maxOldFiles || mode&TypeMask == TypeDir && w.dirs[e.ino] {
			return fmt.Errorf("%s: %w", at, errForeign)
		}
		err = w.each(at, uint32(mode), size)
		if mode&TypeMask != TypeDir {
			if err != nil {
				return err
			}
			continue
		}
		w.dirs[e.ino] = true
		if err == nil {
			err = w.walk(at, in)
		}
		if err != nil && !errors.Is(err, fs.SkipDir) {
			return err
		}
	}
	return nil
}
