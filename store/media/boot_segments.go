package media

import (
	"bytes"
	"cmp"
	"io"
	"slices"
)

// segments is something long that is put together of parts; between them are zeros.
type segments struct {
	size int64
	all  []segment
}

type segment struct {
	at, n int64
	r     io.ReaderAt // n bytes from 0 on
}

// add puts n bytes of r at a place that is still free.
func (s *segments) add(at, n int64, r io.ReaderAt) {
	if n == 0 {
		return
	}
	i, _ := slices.BinarySearchFunc(s.all, at, func(x segment, at int64) int { return cmp.Compare(x.at, at) })
	s.all = slices.Insert(s.all, i, segment{at, n, r})
}

func (s *segments) put(at int64, b []byte) { s.add(at, int64(len(b)), bytes.NewReader(b)) }

// ReadAt is io.ReaderAt. Any number of goroutines may read if they may read the parts.
func (s *segments) ReadAt(p []byte, off int64) (n int, err error) {
	if off >= s.size {
		return 0, io.EOF
	}
	if rest := s.size - off; int64(len(p)) > rest {
		p, err = p[:rest], io.EOF
	}
	clear(p)
	i, _ := slices.BinarySearchFunc(s.all, off, func(x segment, at int64) int { return cmp.Compare(x.at, at) })
	if i > 0 {
		i--
	}
	for _, x := range s.all[i:] {
		from, to := max(x.at, off), min(x.at+x.n, off+int64(len(p)))
		if x.at >= off+int64(len(p)) {
			break
		}
		if to <= from {
			continue
		}
		part := p[from-off : to-off]
		if got, e := x.r.ReadAt(part, from-x.at); got < len(part) {
			return int(from-off) + got, cmp.Or(noEOF(e), io.ErrUnexpectedEOF)
		}
	}
	return len(p), err
}

// noEOF is what else than an end went wrong.
func noEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}
