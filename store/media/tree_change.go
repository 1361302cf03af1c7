package media

import (
	"context"
	"errors"
	"fmt"
	"io"

	"carte/lab"
	"carte/lab/ext4"
)

// OpenFiles looks into an ext4 file system of size bytes: contents stay in r, and are read there when they are asked for. lab.ErrInvalid: it is none that
// can be read (see ext4.Open). Closing it does not close r.
func OpenFiles(ctx context.Context, r io.ReaderAt, size int64) (*Files, error) {
	system, err := ext4.Open(r, size)
	if err != nil {
		return nil, err
	}
	nodes, err := system.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	return &Files{root: nodes[0], nodes: nodes, born: map[*ext4.Node]int{}, bytes: r, left: map[string]int{}}, nil
}

// below is where the contents of the file system lie that a change is laid over, behind everything that came by tar.
const below = int64(1) << 60

// overlaid is what came by tar, and behind it what was there.
type overlaid struct{ came, was io.ReaderAt }

func (l overlaid) ReadAt(p []byte, off int64) (int, error) {
	if off >= below {
		return l.was.ReadAt(p, off-below)
	}
	return l.came.ReadAt(p, off)
}

// Change lays a tar over files that OpenFiles has opened, as one layer of an OCI image (image specification 1.1, layer.md): a member takes the place of
// what has its name, .wh.NAME takes NAME away, .wh..wh..opq all that was in its directory. It is said once. changed is false where the tar has no
// members. Errors are those of ReadFiles; the files are of no use then.
func (f *Files) Change(ctx context.Context, in io.Reader, temp string) (changed bool, err error) {
	if f.spool != nil {
		panic("BUG: a second change of the same files")
	}
	if f.spool, err = newSpool(temp); err != nil {
		return false, err
	}
	for _, n := range f.nodes {
		for i := range n.Data {
			n.Data[i].From += below
		}
	}
	f.bytes, f.layer = overlaid{f.spool.f, f.bytes}, 1
	if err := errors.Join(f.readTar(ctx, in), f.spool.seal()); err != nil {
		return false, err
	}
	f.sweep()
	if len(f.left) > 0 {
		for what, n := range f.left {
			f.Notes = append(f.Notes, fmt.Sprintf("left out, of %d files: %s", n, what))
		}
	}
	return f.came > 0, nil
}

// ReadFile makes files of a single one: what r gives to its end becomes the file name, a path below the root. most is the most bytes that it may have.
func ReadFile(ctx context.Context, in io.Reader, name, temp string, most int64) (*Files, error) {
	s, err := newSpool(temp)
	if err != nil {
		return nil, err
	}
	f := newFiles(s)
	size := int64(0)
	for {
		n, err := io.ReadFull(in, s.buf)
		if size += int64(n); err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return nil, errors.Join(err, s.Close())
		}
		if size > most {
			return nil, errors.Join(fmt.Errorf("it has more than %s: %w", lab.Bytes(most), lab.ErrInvalid), s.Close())
		}
		if e := errors.Join(ctx.Err(), s.write(s.buf[:n])); e != nil {
			return nil, errors.Join(e, s.Close())
		}
		if err != nil {
			break
		}
	}
	dir, base, err := f.parent(name, f.root.Time)
	node := &ext4.Node{Path: name, Mode: ext4.TypeFile | 0o644, Size: size}
	if size > 0 {
		node.Data = []ext4.Run{{Bytes: size}}
	}
	if err = errors.Join(err, s.seal()); err == nil {
		err = f.insert(node, dir, base)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return f, nil
}
