// Package folder reads a folder as a tar stream, so that what imports a tar imports a folder, whoever reads it: the lab sees the bytes that this process
// may see.
//
// It follows no link, leaves the file system that the folder is on at no mount, and changes nothing. It knows no lab, and refuses to leave out what it
// may not read.
package folder

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"carte/lab"
)

// Reader is a folder as a tar in PAX format: names relative to the folder, in the order of their bytes, a directory before what is in it; owners by number,
// modes, times to the nanosecond, hard links, devices, extended attributes, and a note at files with holes. The same folder gives the same bytes. Close
// it. One goroutine at a time.
type Reader struct {
	Left []string // what was left out, in words

	todo []item          // the next one last
	skip map[string]bool // names that are left out without a word
	seen map[fileID]string
	out  bytes.Buffer
	w    *tar.Writer
	file *os.File // whose content is being read
	name string
	rest int64
	err  error
}

type fileID struct{ dev, ino uint64 }

// item is a file that is to come.
type item struct {
	name string // in the tar
	at   string // on the disk; empty: a folder that is nowhere but in the tar
	dev  uint64 // of the file system that is read
	root bool   // it belongs to root in the tar, whoever has it here
}

// Open begins with a folder, or a link to one. lab.ErrNotFound, lab.ErrInvalid: it is none.
func Open(name string) (*Reader, error) {
	st, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s: %w", name, lab.ErrNotFound)
	case err != nil:
		return nil, err
	case !st.IsDir():
		return nil, fmt.Errorf("%s is no folder: %w", name, lab.ErrInvalid)
	}
	if name, err = filepath.EvalSymlinks(name); err != nil {
		return nil, err
	}
	return begin(item{name: ".", at: name, dev: deviceOf(st)}), nil
}

// begin makes a reader of items, the first one first.
func begin(all ...item) *Reader {
	all = slices.Clone(all)
	slices.Reverse(all)
	r := &Reader{todo: all, seen: map[fileID]string{}}
	r.w = tar.NewWriter(&r.out)
	return r
}

func deviceOf(st fs.FileInfo) uint64 { return uint64(st.Sys().(*syscall.Stat_t).Dev) }

// Read gives the next bytes of the tar. An error names the file; what cannot be read, lab.ErrDenied, is no reason to go on without it.
func (r *Reader) Read(p []byte) (int, error) {
	for r.out.Len() == 0 && r.err == nil {
		r.err = r.more()
	}
	if r.out.Len() > 0 {
		return r.out.Read(p)
	}
	return 0, r.err
}

// Close closes the file that is being read.
func (r *Reader) Close() error {
	if r.file == nil {
		return nil
	}
	f := r.file
	r.file = nil
	return f.Close()
}

// more writes the next piece of the tar; io.EOF after the last.
func (r *Reader) more() error {
	if r.file != nil {
		return r.content()
	}
	if len(r.todo) == 0 {
		if r.w == nil {
			return io.EOF
		}
		err := r.w.Close()
		r.w = nil
		return err
	}
	next := r.todo[len(r.todo)-1]
	r.todo = r.todo[:len(r.todo)-1]
	if next.at == "" {
		return r.w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: next.name + "/", Mode: 0o755, Format: tar.FormatPAX})
	}
	if err := r.entry(next); err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("%s: you may not read it, and without it the folder is not whole: %w", next.at, lab.ErrDenied)
		}
		return fmt.Errorf("%s: %w", next.at, err)
	}
	return nil
}

// content copies a piece of a file.
func (r *Reader) content() error {
	n, err := io.CopyN(r.w, r.file, min(r.rest, 256<<10))
	if r.rest -= n; err == io.EOF {
		err = fmt.Errorf("%s: it became shorter while it was read; nobody may change the folder: %w", r.name, lab.ErrInvalid)
	}
	if err == nil && r.rest == 0 {
		err = r.Close()
	}
	return err
}

// entry writes the header of a file, and opens it if it has content.
func (r *Reader) entry(it item) error {
	name, at := it.name, it.at
	st, err := os.Lstat(at)
	if err != nil {
		return err
	}
	sys := st.Sys().(*syscall.Stat_t)
	h := &tar.Header{Name: name, Mode: int64(sys.Mode & 0o7777), Uid: int(sys.Uid), Gid: int(sys.Gid), ModTime: st.ModTime(), Format: tar.FormatPAX}
	if it.root {
		h.Uid, h.Gid = 0, 0
	}
	switch sys.Mode & syscall.S_IFMT {
	case syscall.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
		if uint64(sys.Dev) != it.dev {
			r.Left = append(r.Left, fmt.Sprintf("what is in %s: another file system is mounted there", at))
			break
		}
		if err := r.below(it); err != nil {
			return err
		}
	case syscall.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = os.Readlink(at); err != nil {
			return err
		}
	case syscall.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case syscall.S_IFCHR, syscall.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if sys.Mode&syscall.S_IFMT == syscall.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(uint64(sys.Rdev))), int64(unix.Minor(uint64(sys.Rdev)))
	case syscall.S_IFREG:
		h.Typeflag = tar.TypeReg
	default:
		r.Left = append(r.Left, fmt.Sprintf("%s: a socket lives only as long as the program that made it", at))
		return nil
	}
	if id := (fileID{uint64(sys.Dev), sys.Ino}); sys.Nlink > 1 && h.Typeflag != tar.TypeDir {
		if first := r.seen[id]; first != "" {
			return r.w.WriteHeader(&tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: first, ModTime: h.ModTime, Format: tar.FormatPAX})
		}
		r.seen[id] = name
	}
	if h.PAXRecords, err = attributes(at); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeReg {
		return r.w.WriteHeader(h)
	}
	return r.open(at, h, sys)
}

// open writes the header of a regular file, the one that was seen and not what has come in its place.
func (r *Reader) open(at string, h *tar.Header, sys *syscall.Stat_t) error {
	f, err := os.OpenFile(at, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if now, ok := st.Sys().(*syscall.Stat_t); err == nil && (!ok || now.Ino != sys.Ino || now.Dev != sys.Dev) {
		err = fmt.Errorf("it was replaced while it was read; nobody may change the folder: %w", lab.ErrInvalid)
	}
	if err == nil {
		if h.Size = st.Size(); sys.Blocks*512 < h.Size {
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords[lab.SparseRecord] = "1"
		}
		err = r.w.WriteHeader(h)
	}
	if err != nil || h.Size == 0 {
		return errors.Join(err, f.Close())
	}
	r.file, r.name, r.rest = f, at, h.Size
	return nil
}

// below puts what is in a directory before all else that is to come.
func (r *Reader) below(it item) error {
	list, err := os.ReadDir(it.at) // sorted
	if err != nil {
		return err
	}
	for _, e := range slices.Backward(list) {
		if r.skip[path.Join(it.name, e.Name())] {
			continue
		}
		r.todo = append(r.todo, item{path.Join(it.name, e.Name()), filepath.Join(it.at, e.Name()), it.dev, it.root})
	}
	return nil
}

// attributes reads the extended attributes of a file, as PAX records.
func attributes(at string) (map[string]string, error) {
	list, err := attribute(func(b []byte) (int, error) { return unix.Llistxattr(at, b) })
	if err != nil || len(list) == 0 {
		return nil, err
	}
	records := map[string]string{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		value, err := attribute(func(b []byte) (int, error) { return unix.Lgetxattr(at, name, b) })
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("extended attribute %s: %w", name, err)
		}
		records["SCHILY.xattr."+name] = string(value)
	}
	return records, nil
}

// attribute asks how long something is, and then for it. A file system without attributes has none.
func attribute(ask func([]byte) (int, error)) ([]byte, error) {
	for {
		n, err := ask(nil)
		if err == nil && n > 0 {
			b := make([]byte, n)
			if n, err = ask(b); err == nil {
				return b[:n], nil
			}
		}
		switch {
		case errors.Is(err, unix.ERANGE): // it has grown
		case errors.Is(err, unix.ENOTSUP):
			return nil, nil
		default:
			return nil, err
		}
	}
}
