// Package layout knows what lies where on a disk: partition tables, the file systems in the partitions, and the bytes that
// none of them needs. It is the one home of GUID partition tables, MBRs and the insides of file systems as far as they say
// which bytes are free.
//
// It reads through an io.ReaderAt and returns bytes to be written; it opens nothing, writes nothing and knows no lab. What it
// does not understand to the last bit is needed: a byte is free only where the format proves it.
//
// A free byte need not be stored, and need not be written when the disk is laid again: what lies there is never read before
// it is written. A stale byte need not be stored either, but must be zero when the disk is laid again; see Map.
//
// All places and sizes are in bytes unless they say blocks.
package layout

import (
	"errors"
	"fmt"
	"io"
)

// ErrDamaged is in the chain of errors that say: there is a table, and it contradicts itself.
var ErrDamaged = errors.New("damaged")

// ErrUnable is in the chain of errors that say: the table is sound, and what was asked cannot be done with it.
var ErrUnable = errors.New("cannot be done with this partition table")

// A ShortError says that something does not fit, and by how much.
type ShortError struct {
	What  string // "partition 2"
	Short int64  // bytes that are missing
}

func (e *ShortError) Error() string {
	return fmt.Sprintf("%s does not fit: %d bytes are missing", e.What, e.Short)
}

// source reads short pieces and remembers the first error that is not the end.
type source struct {
	r    io.ReaderAt
	size int64
	err  error
}

// at returns n bytes at off, or fewer at the end of the disk, and nothing after an error.
func (s *source) at(off int64, n int) []byte {
	if off < 0 || off >= s.size || s.err != nil {
		return nil
	}
	b := make([]byte, min(int64(n), s.size-off))
	got, err := s.r.ReadAt(b, off)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		s.err = fmt.Errorf("look at byte %d: %w", off, err)
	}
	return b[:got]
}

// whole returns n bytes at off, or nothing.
func (s *source) whole(off int64, n int) []byte {
	if b := s.at(off, n); len(b) == n {
		return b
	}
	return nil
}

// cut returns b[at:at+n], or nothing when b is shorter.
func cut(b []byte, at, n int) []byte {
	if at < 0 || n < 0 || at+n > len(b) {
		return nil
	}
	return b[at : at+n]
}

// isZero reports whether b holds nothing but zeros.
func isZero(b []byte) bool {
	for len(b) >= 8 {
		if b[0]|b[1]|b[2]|b[3]|b[4]|b[5]|b[6]|b[7] != 0 {
			return false
		}
		b = b[8:]
	}
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}
