package shim

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"carte/lab"
)

// outEntries are the files and folders below dir, and those links that lead to something below it. All else is named to
// skip. A dir that is not there has none.
func outEntries(dir string, skip func(string)) Entries {
	return func(yield func(Entry, error) bool) {
		root, err := os.OpenRoot(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return
		}
		if err != nil {
			yield(Entry{}, err)
			return
		}
		defer root.Close()
		o := outWalk{root, skip, yield}
		o.folder(".")
	}
}

type outWalk struct {
	root  *os.Root
	skip  func(string)
	yield func(Entry, error) bool
}

// folder yields what is in a folder; false: no more is wanted.
func (o outWalk) folder(name string) bool {
	list, err := fs.ReadDir(o.root.FS(), name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		o.yield(Entry{}, err)
		return false
	}
	for _, d := range list {
		if !o.one(path.Join(name, d.Name())) {
			return false
		}
	}
	return true
}

func (o outWalk) one(name string) bool {
	info, err := o.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return true // it went away meanwhile
	}
	if err != nil {
		return o.yield(Entry{}, err)
	}
	h := &tar.Header{Name: name, Mode: int64(info.Mode().Perm()), ModTime: info.ModTime(), Format: tar.FormatPAX}
	switch {
	case info.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
		return o.yield(Entry{Header: h}, nil) && o.folder(name)
	case info.Mode().IsRegular():
		h.Typeflag, h.Size = tar.TypeReg, info.Size()
		return o.yield(Entry{h, func() (io.ReadCloser, error) { return o.root.Open(name) }}, nil)
	case info.Mode()&fs.ModeSymlink != 0:
		to, err := o.root.Readlink(name)
		if err != nil {
			return o.yield(Entry{}, err)
		}
		if to, inside := o.inside(name, to); inside {
			h.Typeflag, h.Linkname = tar.TypeSymlink, to
			return o.yield(Entry{Header: h}, nil)
		}
		o.skip(fmt.Sprintf("%s, a link to %s", name, to))
	default:
		o.skip(fmt.Sprintf("%s, which is neither file nor folder (%v)", name, info.Mode().Type()))
	}
	return true
}

// inside says whether a link leads to something below the folder, and how it says so from where it is.
func (o outWalk) inside(name, to string) (string, bool) {
	if path.IsAbs(to) {
		rel, err := filepath.Rel(lab.OutPlace, to)
		if err != nil || !filepath.IsLocal(rel) {
			return to, false
		}
		to = strings.Repeat("../", strings.Count(name, "/")) + rel
	}
	return to, filepath.IsLocal(path.Join(path.Dir(name), to))
}
