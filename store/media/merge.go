package media

import (
	"context"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"carte/lab"
	"carte/lab/ext4"
)

// Merged is one tree that several file systems are laid over one another in, the last wins: what a machine composes by mounting, as files of one file
// system. The file systems are read until the Merged is no longer used; nothing is copied.
type Merged struct {
	root     *ext4.Node
	contents *segments
}

// Merge begins with a whole system of size bytes, which everything else lies over. lab.ErrInvalid: it cannot be read, and why.
func Merge(ctx context.Context, r io.ReaderAt, size int64) (*Merged, error) {
	m := &Merged{contents: &segments{}}
	var err error
	m.root, err = m.take(ctx, r, size)
	return m, err
}

// take reads a file system, and makes its contents part of ours.
func (m *Merged) take(ctx context.Context, r io.ReaderAt, size int64) (*ext4.Node, error) {
	f, err := ext4.Open(r, size)
	if err != nil {
		return nil, err
	}
	nodes, err := f.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range nodes {
		for i := range n.Data {
			n.Data[i].From += m.contents.size
		}
	}
	m.contents.add(m.contents.size, size, r)
	m.contents.size += size
	return nodes[0], nil
}

// Over lays a file system over the root or, where place is not empty, in the place of the folder there, which is made. Over the root a folder over a
// symbolic link to a folder goes into that folder: /lib of a layer into /usr/lib of a system that keeps it there. A character device 0:0 removes what
// it lies over, as with overlayfs.
func (m *Merged) Over(ctx context.Context, r io.ReaderAt, size int64, place string) error {
	top, err := m.take(ctx, r, size)
	if err != nil {
		return err
	}
	if place != "" {
		dir, err := m.folder(place)
		if err != nil {
			return err
		}
		dir.Names, dir.Mode, dir.UID, dir.GID, dir.Time, dir.Xattrs = top.Names, top.Mode, top.UID, top.GID, top.Time, top.Xattrs
		return nil
	}
	m.overlay("", m.root, top)
	return nil
}

func (m *Merged) overlay(at string, dir, over *ext4.Node) {
	for _, name := range slices.Sorted(maps.Keys(over.Names)) {
		n, old := over.Names[name], dir.Names[name]
		if n.Mode&ext4.TypeMask == ext4.TypeChar && n.Major == 0 && n.Minor == 0 {
			delete(dir.Names, name)
			continue
		}
		if n.IsDir() && old != nil {
			if old.IsDir() {
				old.Mode, old.UID, old.GID, old.Time, old.Xattrs = n.Mode, n.UID, n.GID, n.Time, n.Xattrs
			} else if old.Mode&ext4.TypeMask == ext4.TypeLink {
				old = m.follow(at + "/" + name)
			}
			if old != nil && old.IsDir() {
				m.overlay(at+"/"+name, old, n)
				continue
			}
		}
		dir.Names[name] = n
	}
}

// follow finds a file as the kernel would; nil if there is none.
func (m *Merged) follow(name string) *ext4.Node { return (&Files{root: m.root}).follow(name) }

// folder finds a folder, or makes it and those above it.
func (m *Merged) folder(name string) (*ext4.Node, error) {
	dir, so := m.root, ""
	for part := range strings.SplitSeq(strings.Trim(name, "/"), "/") {
		if part == "" {
			continue
		}
		so += "/" + part
		next := m.follow(so)
		if next == nil {
			next = &ext4.Node{Mode: ext4.TypeDir | 0o755, Time: m.root.Time, Names: map[string]*ext4.Node{}}
			dir.Names[part] = next
		}
		if !next.IsDir() {
			return nil, fmt.Errorf("%s has to be a folder, and is none: %w", so, lab.ErrInvalid)
		}
		dir = next
	}
	return dir, nil
}

// Put writes a small file of root's in the place of what is there.
func (m *Merged) Put(name string, mode uint32, text []byte) error {
	dir, err := m.folder(path.Dir(name))
	if err != nil {
		return err
	}
	n := &ext4.Node{Mode: ext4.TypeFile | uint16(mode&0o7777), Time: m.root.Time, Size: int64(len(text))}
	if len(text) > 0 {
		n.Data = []ext4.Run{{Bytes: n.Size, From: m.contents.size}}
	}
	m.contents.put(m.contents.size, text)
	m.contents.size += n.Size
	dir.Names[path.Base(name)] = n
	return nil
}

// Folder makes a folder where there is none.
func (m *Merged) Folder(name string) error {
	_, err := m.folder(name)
	return err
}

// open returns the content of a file; nil if there is no regular file of that name.
func (m *Merged) open(name string) *io.SectionReader {
	n := m.follow(name)
	if n == nil || n.Mode&ext4.TypeMask != ext4.TypeFile {
		return nil
	}
	return m.content(n)
}

// content is that of a regular file.
func (m *Merged) content(n *ext4.Node) *io.SectionReader {
	s := &segments{size: n.Size}
	for _, x := range n.Data {
		s.add(x.At, x.Bytes, io.NewSectionReader(m.contents, x.From, x.Bytes))
	}
	return io.NewSectionReader(s, 0, n.Size)
}

// Text returns a file of at most n bytes, and false when there is none.
func (m *Merged) Text(name string, n int64) ([]byte, bool) {
	r := m.open(name)
	if r == nil || r.Size() > n {
		return nil, false
	}
	b, err := io.ReadAll(r)
	return b, err == nil
}

// Build makes the one file system. The same file systems and options give the same bytes.
func (m *Merged) Build(opt TreeOptions) (*ext4.Image, error) {
	var all []*ext4.Node
	seen := map[*ext4.Node]bool{}
	var list func(name string, n *ext4.Node)
	list = func(name string, n *ext4.Node) {
		if seen[n] {
			return
		}
		seen[n], n.Path = true, name
		all = append(all, n)
		for _, x := range slices.Sorted(maps.Keys(n.Names)) {
			list(path.Join(name, x), n.Names[x])
		}
	}
	list("", m.root)
	return ext4.Build(all, m.contents, opt, nil)
}
