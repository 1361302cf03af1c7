package media

import (
	"archive/tar"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"carte/lab"
	"carte/lab/chunk"
)

// An Unpacked is a regular file that Unpack wrote.
type Unpacked struct {
	Path  string // below the folder, with slashes
	Bytes int64
	Sum   string // BLAKE3-256 of its bytes, hex
}

// Unpack writes the files of a tar that somebody else has made below dir, an empty folder that nobody else writes to. Directories, regular files, hard links
// and symbolic links that stay inside are kept, with their permissions for the owner and their times; a symbolic link that leads out is left out, and told in
// notes. most is the most regular files, keep how many bytes must stay free on the disk.
//
// lab.ErrInvalid: a name that is absolute or leads out, comes twice or lies below a link, a device or pipe, or more than there is room for. lab.ErrDamaged: the
// tar is cut off. Both name the member. Nothing is synced, and after an error what is in dir is of no use.
func Unpack(ctx context.Context, in io.Reader, dir string, most int, keep int64) (all []Unpacked, notes []string, err error) {
	u := &unpacker{dir: dir, kinds: map[string]byte{"": tar.TypeDir}, most: most, keep: keep, buf: make([]byte, 256<<10)}
	err = walkTar(ctx, in, func(h *tar.Header, r io.Reader) error { return u.member(ctx, h, r) })
	for i := len(u.dirs) - 1; i >= 0 && err == nil; i-- { // the deepest first: what is put in changes the time
		err = os.Chtimes(u.path(u.dirs[i].Name), u.dirs[i].ModTime, u.dirs[i].ModTime)
	}
	return u.all, u.notes, err
}

type unpacker struct {
	dir   string
	kinds map[string]byte // by name: what is there, as tars say it
	dirs  []*tar.Header   // with their names below dir
	all   []Unpacked
	notes []string
	most  int
	keep  int64
	buf   []byte
}

func (u *unpacker) path(name string) string { return filepath.Join(u.dir, filepath.FromSlash(name)) }

func (u *unpacker) member(ctx context.Context, h *tar.Header, r io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := memberName(h.Name)
	if err != nil {
		return err
	}
	kind, known := u.kinds[name]
	if h.Typeflag == tar.TypeDir && known && kind == tar.TypeDir {
		return nil
	}
	if known {
		return fmt.Errorf("it comes twice: %w", lab.ErrInvalid)
	}
	if err := u.parents(name); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		c := *h
		c.Name = name
		u.dirs = append(u.dirs, &c)
		err = os.Mkdir(u.path(name), 0o755)
	case tar.TypeReg, tar.TypeRegA, tar.TypeGNUSparse:
		err = u.file(ctx, name, h, r)
	case tar.TypeSymlink:
		if leadsOut(path.Dir(name), h.Linkname) {
			u.notes = append(u.notes, lab.Clean(fmt.Sprintf("%s is a link to %s, which is not taken home; it was left out", name, h.Linkname)))
			return nil
		}
		err = os.Symlink(h.Linkname, u.path(name))
	case tar.TypeLink:
		err = u.link(name, h)
	default:
		return fmt.Errorf("a device or a pipe is no result (type %q): %w", h.Typeflag, lab.ErrInvalid)
	}
	u.kinds[name] = h.Typeflag
	return err
}

// leadsOut says that a symbolic link in dir may name what is not below the root. Behind a name, ".." could step back through another link.
func leadsOut(dir, to string) bool {
	rest := to
	for strings.HasPrefix(rest, "../") {
		rest = strings.TrimLeft(rest[3:], "/")
	}
	if rest == ".." {
		rest = ""
	}
	at := path.Join(dir, to)
	return to == "" || path.IsAbs(to) || at == ".." || strings.HasPrefix(at, "../") || slices.Contains(strings.Split(rest, "/"), "..")
}

// parents makes the directories that a name is in, and refuses to go through anything else.
func (u *unpacker) parents(name string) error {
	for i := range name {
		if name[i] != '/' {
			continue
		}
		switch kind, known := u.kinds[name[:i]]; {
		case !known:
			if err := os.Mkdir(u.path(name[:i]), 0o755); err != nil {
				return err
			}
			u.kinds[name[:i]] = tar.TypeDir
		case kind != tar.TypeDir:
			return fmt.Errorf("it lies below %q, which is no directory: %w", name[:i], lab.ErrInvalid)
		}
	}
	return nil
}

// file writes a regular file; where it is all zero, it takes no room.
func (u *unpacker) file(ctx context.Context, name string, h *tar.Header, r io.Reader) (err error) {
	if len(u.all) == u.most {
		return fmt.Errorf("there are more than %d files, which are the most; pack them into one: %w", u.most, lab.ErrRefused)
	}
	if err := u.room(h.Size); err != nil {
		return err
	}
	f, err := os.OpenFile(u.path(name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, os.FileMode(h.Mode)&0o777|0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sum, size := chunk.NewHash(), int64(0)
	for {
		n, err := io.ReadFull(r, u.buf)
		if err != nil && err != io.EOF && !(err == io.ErrUnexpectedEOF && size+int64(n) == h.Size) {
			return err
		}
		sum.Write(u.buf[:n])
		if !zero(u.buf[:n]) {
			if _, err := f.WriteAt(u.buf[:n], size); err != nil {
				return err
			}
		}
		if size += int64(n); err != nil || size == h.Size {
			break
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	if err := errors.Join(f.Truncate(size), os.Chtimes(f.Name(), h.ModTime, h.ModTime)); err != nil {
		return err
	}
	u.all = append(u.all, Unpacked{name, size, hex.EncodeToString(sum.Sum(nil))})
	return nil
}

// room refuses a file that does not fit, before it is written.
func (u *unpacker) room(n int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(u.dir, &st); err != nil {
		return err
	}
	if free := int64(st.Bavail) * st.Bsize; n > free-u.keep {
		return fmt.Errorf("it has %s, and the server's disk has %s free, of which %s stay free; make room there (carte image rm, then carte gc): %w", lab.Bytes(n), lab.Bytes(free), lab.Bytes(u.keep), lab.ErrRefused)
	}
	return nil
}

// link gives a file that came before one more name.
func (u *unpacker) link(name string, h *tar.Header) error {
	to, err := memberName(h.Linkname)
	if err != nil {
		return fmt.Errorf("a link to %q: %w", h.Linkname, err)
	}
	i := -1
	for k, x := range u.all {
		if x.Path == to {
			i = k
		}
	}
	if i < 0 || len(u.all) == u.most {
		return fmt.Errorf("a link to %q, which is no file that came before it, or one too many: %w", h.Linkname, lab.ErrInvalid)
	}
	u.all = append(u.all, Unpacked{name, u.all[i].Bytes, u.all[i].Sum})
	return os.Link(u.path(to), u.path(name))
}
