package store

import (
	"fmt"
	"io"
	"sync"

	"carte/lab"
	"carte/lab/chunk"
)

// Reader returns the version as something that can be read at any place, to look into it. Every byte comes from a chunk that was hashed. Any number
// of goroutines may read; one chunk is kept in memory. lab.ErrNotFound and lab.ErrDamaged as in Manifest and Get.
func (c *Chunks) Reader(root chunk.ID) (*io.SectionReader, error) {
	m, err := c.Manifest(root)
	if err != nil {
		return nil, err
	}
	return io.NewSectionReader(&imageReader{get: c.Get, m: m, have: -1}, 0, m.Size), nil
}

type imageReader struct {
	get func(id chunk.ID, dst []byte) ([]byte, error) // as Chunks.Get
	m   chunk.Manifest

	mu   sync.Mutex
	have int // the chunk in buf; -1 for none
	buf  []byte
}

func (r *imageReader) ReadAt(p []byte, off int64) (n int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for n < len(p) {
		if off >= r.m.Size {
			return n, io.EOF
		}
		i := int(off / chunk.Size)
		within, length := int(off%chunk.Size), r.m.Len(i)
		part := p[n:min(len(p), n+length-within)]
		if r.m.IDs[i].Implied() {
			clear(part)
		} else if err := r.load(i); err != nil {
			return n, err
		} else {
			copy(part, r.buf[within:])
		}
		n += len(part)
		off += int64(len(part))
	}
	return n, nil
}

// load brings chunk i into buf. r.mu is held.
func (r *imageReader) load(i int) error {
	if r.have == i {
		return nil
	}
	r.have = -1
	b, err := r.get(r.m.IDs[i], r.buf)
	if err == nil && len(b) != r.m.Len(i) {
		err = fmt.Errorf("chunk of %d bytes, want %d: %w", len(b), r.m.Len(i), lab.ErrDamaged)
	}
	if err != nil {
		return fmt.Errorf("read at byte %d: %w", int64(i)*chunk.Size, err)
	}
	r.buf, r.have = b, i
	return nil
}
