package shim

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"sync"
)

// An Entry is one file of a tar stream. Open is asked only where the Header has a Size.
type Entry struct {
	Header *tar.Header
	Open   func() (io.ReadCloser, error)
}

// Entries are files in an order that a tar may have: a directory before what is in it. After an error there are no more.
type Entries = iter.Seq2[Entry, error]

// packed is a tar of entries, made while it is read. Nothing of it is kept.
type packed struct {
	mu    sync.Mutex // whoever sends it may still read when it is closed
	next  func() (Entry, error, bool)
	stop  func()
	buf   bytes.Buffer
	tar   *tar.Writer
	file  io.ReadCloser
	left  int64 // bytes of file
	bytes int64 // of all files, so far
	files int
	err   error
	shut  bool
}

func pack(all Entries) *packed {
	p := &packed{}
	p.next, p.stop = iter.Pull2(all)
	p.tar = tar.NewWriter(&p.buf)
	return p
}

// Close ends the reading, also before its end.
func (p *packed) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stop()
	if p.file != nil {
		p.file.Close()
	}
	p.shut = true
}

// failed returns what went wrong here, and not on the wire.
func (p *packed) failed() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == io.EOF {
		return nil
	}
	return p.err
}

func (p *packed) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shut {
		return 0, fs.ErrClosed
	}
	for p.buf.Len() == 0 && p.err == nil {
		p.err = p.step()
	}
	if p.buf.Len() > 0 {
		return p.buf.Read(b)
	}
	return 0, p.err
}

const piece = 64 << 10

// step makes a little more of the tar.
func (p *packed) step() error {
	if p.left > 0 {
		return p.some()
	}
	e, err, ok := p.next()
	switch {
	case err != nil:
		return err
	case !ok:
		if err := p.tar.Close(); err != nil {
			return err
		}
		return io.EOF
	}
	if e.Header.Size > 0 {
		if p.file, err = e.Open(); err != nil {
			return err
		}
		p.left = e.Header.Size
	}
	p.files++
	p.bytes += e.Header.Size
	if err := p.tar.WriteHeader(e.Header); err != nil {
		return fmt.Errorf("%s: %w", e.Header.Name, err)
	}
	return nil
}

// some takes a piece of the open file. One that became shorter since its size was asked ends in zeros.
func (p *packed) some() error {
	n, err := io.CopyN(p.tar, p.file, min(p.left, piece))
	p.left -= n
	if err == io.EOF {
		n, err = io.CopyN(p.tar, zeros{}, min(p.left, piece))
		p.left -= n
	}
	if err == nil && p.left == 0 {
		err = p.file.Close()
		p.file = nil
	}
	return err
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }
