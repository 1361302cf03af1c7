package agent

import (
	"archive/tar"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"carte/agent/shim"
	"carte/lab"
)

// How the upper layer of an overlay writes down what is gone (Documentation/filesystems/overlayfs.rst), and how a layer of
// OCI does (image-spec, layer.md).
const (
	overlayXattrs = "trusted.overlay."
	opaqueXattr   = overlayXattrs + "opaque"   // "y": nothing of the same folder below is seen
	whiteXattr    = overlayXattrs + "whiteout" // on an empty file, as a device 0/0: nothing of that name below is seen
	redirectXattr = overlayXattrs + "redirect"
	metaXattr     = overlayXattrs + "metacopy"

	ociGone   = ".wh."
	ociOpaque = ".wh..wh..opq"
	ociXattr  = "SCHILY.xattr."
)

// uppers are the upper layers that a shim has inherited.
type uppers map[shim.Back]*os.File

func inheritUppers(task shimTask) uppers {
	u := uppers{}
	for i, b := range task.Backs {
		unix.CloseOnExec(shimBacksFD + i)
		u[b] = os.NewFile(uintptr(shimBacksFD+i), b.Upper)
	}
	return u
}

// changes is what lies in an upper layer, as a layer of OCI. A layer in which nothing was changed has no entries.
func (u uppers) changes(b shim.Back) shim.Entries {
	return func(yield func(shim.Entry, error) bool) {
		dir, ok := u[b]
		if !ok {
			yield(shim.Entry{}, fmt.Errorf("%s: its upper layer was not handed over: %w", b.Image, lab.ErrNotFound))
			return
		}
		layerEntries(dir, b.Place)(yield)
	}
}

// layerEntries walks an upper layer that is mounted at place. What lies in /carte/out goes home in another way, and is no
// change of an image. The file stays open, and the caller's.
func layerEntries(top *os.File, place string) shim.Entries {
	return func(yield func(shim.Entry, error) bool) {
		w := &layerWalk{yield: yield, links: map[inode]string{}, place: place}
		w.folder(top, "")
	}
}

type inode struct{ dev, ino uint64 }

type layerWalk struct {
	yield func(shim.Entry, error) bool
	links map[inode]string // of files with more than one name, the first
	place string
}

// folder yields what is in an open folder. false: no more is wanted.
func (w *layerWalk) folder(dir *os.File, at string) bool {
	names, err := readNames(dir)
	if err != nil {
		return w.fail(at, err)
	}
	for _, name := range names {
		if !w.one(dir, at, name) {
			return false
		}
	}
	return true
}

// readNames lists an open folder from its beginning, however often.
func readNames(dir *os.File) ([]string, error) {
	if _, err := dir.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	names, err := dir.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

func (w *layerWalk) fail(at string, err error) bool {
	w.yield(shim.Entry{}, fmt.Errorf("%s: %w", at, err))
	return false
}

func (w *layerWalk) one(dir *os.File, at, name string) bool {
	var st unix.Stat_t
	full := path.Join(at, name)
	if path.Join(w.place, full) == lab.OutPlace {
		return true
	}
	err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return true // it went away meanwhile
	}
	if err == nil && strings.HasPrefix(name, ociGone) {
		err = fmt.Errorf("a name that begins with %s cannot be kept: %w", ociGone, lab.ErrInvalid)
	}
	if err != nil {
		return w.fail(full, err)
	}
	h := &tar.Header{
		Name: full, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Unix()), Format: tar.FormatPAX,
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return w.below(dir, name, h)
	case unix.S_IFREG:
		return w.file(dir, name, h, st)
	case unix.S_IFLNK:
		return w.link(dir, name, h)
	case unix.S_IFCHR:
		if st.Rdev == 0 {
			return w.gone(h)
		}
		return w.device(h, tar.TypeChar, uint64(st.Rdev))
	case unix.S_IFBLK:
		return w.device(h, tar.TypeBlock, uint64(st.Rdev))
	case unix.S_IFIFO:
		return w.device(h, tar.TypeFifo, 0)
	}
	return true // a socket is somebody's who is not there any more
}

// gone says that what lay below under that name is gone.
func (w *layerWalk) gone(h *tar.Header) bool {
	gone := &tar.Header{Typeflag: tar.TypeReg, Name: path.Join(path.Dir(h.Name), ociGone+path.Base(h.Name)), ModTime: h.ModTime, Format: tar.FormatPAX}
	return w.yield(shim.Entry{Header: gone}, nil)
}

func (w *layerWalk) device(h *tar.Header, kind byte, dev uint64) bool {
	h.Typeflag, h.Devmajor, h.Devminor = kind, int64(unix.Major(dev)), int64(unix.Minor(dev))
	return w.yield(shim.Entry{Header: h}, nil)
}

func (w *layerWalk) link(dir *os.File, name string, h *tar.Header) (more bool) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(dir.Fd()), name, buf)
	if err != nil {
		return w.fail(h.Name, err)
	}
	h.Typeflag, h.Linkname = tar.TypeSymlink, string(buf[:n])
	return w.yield(shim.Entry{Header: h}, nil)
}

// below yields a folder and what is in it.
func (w *layerWalk) below(dir *os.File, name string, h *tar.Header) bool {
	f, err := openBelow(dir, name, unix.O_DIRECTORY)
	if err != nil {
		return w.fail(h.Name, err)
	}
	defer f.Close()
	overlay, err := takeXattrs(f, h)
	if err == nil && overlay[redirectXattr] != "" {
		err = fmt.Errorf("the folder was renamed by an overlay with redirect_dir, which cannot be kept: %w", lab.ErrInvalid)
	}
	if err != nil {
		return w.fail(h.Name, err)
	}
	at := h.Name
	h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
	if !w.yield(shim.Entry{Header: h}, nil) {
		return false
	}
	if overlay[opaqueXattr] == "y" {
		opaque := &tar.Header{Typeflag: tar.TypeReg, Name: path.Join(at, ociOpaque), ModTime: h.ModTime, Format: tar.FormatPAX}
		if !w.yield(shim.Entry{Header: opaque}, nil) {
			return false
		}
	}
	return w.folder(f, at)
}

// file yields a file, which the entry opens again when its bytes are asked for: before the next entry.
func (w *layerWalk) file(dir *os.File, name string, h *tar.Header, st unix.Stat_t) bool {
	f, err := openBelow(dir, name, 0)
	if err != nil {
		return w.fail(h.Name, err)
	}
	overlay, err := takeXattrs(f, h)
	f.Close()
	if _, meta := overlay[metaXattr]; meta && err == nil {
		err = fmt.Errorf("its bytes were left below by an overlay with metacopy, which cannot be kept: %w", lab.ErrInvalid)
	}
	if err != nil {
		return w.fail(h.Name, err)
	}
	if _, white := overlay[whiteXattr]; white && st.Size == 0 {
		return w.gone(h)
	}
	id := inode{uint64(st.Dev), st.Ino}
	if first, known := w.links[id]; known {
		h.Typeflag, h.Linkname, h.PAXRecords = tar.TypeLink, first, nil
		return w.yield(shim.Entry{Header: h}, nil)
	}
	if st.Nlink > 1 {
		w.links[id] = h.Name
	}
	h.Typeflag, h.Size = tar.TypeReg, st.Size
	return w.yield(shim.Entry{Header: h, Open: func() (io.ReadCloser, error) { return openBelow(dir, name, 0) }}, nil)
}

// openBelow opens what is in an open folder, and no link.
func openBelow(dir *os.File, name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// takeXattrs gives a header the attributes of its file, but for the overlay's own, which it returns.
func takeXattrs(f *os.File, h *tar.Header) (overlay map[string]string, err error) {
	list := make([]byte, 64<<10) // the most that the kernel gives (XATTR_LIST_MAX)
	n, err := unix.Flistxattr(int(f.Fd()), list)
	if err == unix.ENOTSUP || n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	overlay = map[string]string{}
	value := make([]byte, 64<<10) // XATTR_SIZE_MAX
	for name := range strings.SplitSeq(strings.TrimRight(string(list[:n]), "\x00"), "\x00") {
		n, err := unix.Fgetxattr(int(f.Fd()), name, value)
		switch {
		case err == unix.ENODATA:
			continue
		case err != nil:
			return nil, fmt.Errorf("attribute %s: %w", name, err)
		case strings.HasPrefix(name, overlayXattrs):
			overlay[name] = string(value[:n])
			continue
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[ociXattr+name] = string(value[:n])
	}
	return overlay, nil
}
