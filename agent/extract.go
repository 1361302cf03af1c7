package agent

import (
	"bytes"
	"fmt"
	"io"

	"carte/lab"
	"carte/lab/chunk"
	"carte/lab/layout"
)

// An extract is what of a disk an image is: size bytes from off on, and put back to how images have it what a flash has
// fitted to the disk. It is for reading.
type extract struct {
	Disk
	off, size int64
	put       []patch
}

// A patch is bytes of an extract that the disk has otherwise.
type patch struct {
	off  int64
	data []byte
}

func (e *extract) Size() int64 { return e.size }

func (e *extract) ReadAt(b []byte, off int64) (n int, err error) {
	want := len(b)
	if off >= e.size {
		return 0, io.EOF
	}
	b = b[:min(int64(want), e.size-off)]
	if n, err = e.Disk.ReadAt(b, e.off+off); err != nil {
		return n, err
	}
	for _, p := range e.put {
		if from, to := max(off, p.off), min(off+int64(n), p.off+int64(len(p.data))); from < to {
			copy(b[from-off:to-off], p.data[from-p.off:to-p.off])
		}
	}
	if n < want {
		return n, io.EOF
	}
	return n, nil
}

// Data implements charted.
func (e *extract) Data(from int64) (start, end int64) {
	start, end = from, e.size
	if d, ok := e.Disk.(charted); ok {
		start, end = d.Data(e.off + from)
		start, end = min(start-e.off, e.size), min(end-e.off, e.size)
	}
	for _, p := range e.put {
		if last := p.off + int64(len(p.data)); last > from && p.off < start {
			start, end = max(p.off, from), last
		}
	}
	return start, end
}

const mebi = 1 << 20

// wholeDisk finds what of a disk is the image: all that its partition table needs, and at least as much as the base had. Where
// nothing says how far the contents reach, it is all before byte end, where carte's own begins.baseHead is asked for
// the base's first chunk, which is empty without a base. why says in words what was found.
func wholeDisk(d Disk, base int64, baseHead func() ([]byte, error), end int64) (e *extract, why string, err error) {
	all := func(to int64, why string) (*extract, string, error) {
		return &extract{Disk: d, size: to}, fmt.Sprintf("all %s: %s", lab.Bytes(to), why), nil
	}
	t, err := layout.ReadTable(d, d.Size())
	if err != nil {
		return nil, "", err
	}
	need, what := layout.End(t), "as its partition table says"
	if t.Kind == "" {
		need, what, err = bareEnd(d, base, baseHead)
	}
	switch {
	case err != nil:
		return nil, "", err
	case t.Note != "":
		return all(d.Size(), t.Note)
	case need > d.Size():
		return all(d.Size(), "its partition table speaks of more than there is")
	case need == 0:
		return all(end, "nothing says how far the contents reach")
	}
	size := min((need+mebi-1)/mebi*mebi, d.Size())
	if base >= need && base <= d.Size() {
		size = base
	}
	e, why = &extract{Disk: d, size: size}, fmt.Sprintf("%s of %s, %s", lab.Bytes(size), lab.Bytes(d.Size()), what)
	if size == d.Size() || t.Kind != "gpt" {
		return e, why, nil
	}
	head := aligned(int(min(size, chunk.Size)))
	if _, err := d.ReadAt(head, 0); err != nil {
		return nil, "", err
	}
	head, backup, at, ok, err := layout.Restore(head, t.Block, size)
	if err != nil || !ok {
		return all(d.Size(), fmt.Sprintf("its partition table cannot be fitted to less (%v)", err))
	}
	e.put = []patch{{0, head}, {at, backup}}
	return e, why, nil
}

// bareEnd says how far the contents of a disk without a partition table reach; 0 where nobody knows. A disk that looks as
// its base did, of which nobody knew either, reaches as far.
func bareEnd(d Disk, base int64, baseHead func() ([]byte, error)) (end int64, what string, err error) {
	x, err := layout.Identify(d, 0, d.Size())
	if err != nil || x.Bytes > 0 {
		return x.Bytes, "as far as the " + clean(x.String()) + " reaches", err
	}
	head, err := baseHead()
	if err != nil || len(head) == 0 {
		return 0, "", err
	}
	was, size := bytes.NewReader(head), int64(len(head))
	t, err := layout.ReadTable(was, size)
	if err != nil || t.Kind != "" {
		return 0, "", err
	}
	if y, err := layout.Identify(was, 0, size); err != nil || y.Type != x.Type || y.Bytes != 0 {
		return 0, "", err
	}
	return base, "as much as its base has", nil
}

// treePart finds the tree of a disk that carte laid out.
func treePart(d Disk, base lab.Write) (e *extract, why string, err error) {
	t, err := layout.ReadTable(d, d.Size())
	if err != nil {
		return nil, "", err
	}
	for _, p := range t.Parts {
		if p.Name != basePartition || p.Off < 0 || p.Bytes <= 0 || p.Off > d.Size()-p.Bytes {
			continue
		}
		e = &extract{Disk: d, off: p.Off, size: p.Bytes}
		if base.Offset == p.Off && base.Bytes > p.Bytes-int64(t.Block) && base.Bytes <= p.Bytes { // its last block is not all its own
			e.size = base.Bytes
		}
		return e, fmt.Sprintf("%s in partition %d, %s", lab.Bytes(e.size), p.Number, basePartition), nil
	}
	return nil, "", fmt.Errorf("it holds no tree of carte's, there is no partition %s; --form disk captures all of it: %w", basePartition, lab.ErrRefused)
}
