package chunk

import (
	"encoding/binary"
	"fmt"
	"io"
)

// FrameHeader is the number of bytes that a frame adds to a stored chunk: its ID and, little endian, the length of the stored form.
const FrameHeader = len(ID{}) + 4

// WriteFrame writes one chunk in its stored form, so that many chunks can follow one another in one body. It issues two writes; hand it a
// bufio.Writer if w is a socket. A stored form of no bytes or of more than MaxStored is refused before anything is written.
func WriteFrame(w io.Writer, id ID, stored []byte) error {
	if len(stored) == 0 || len(stored) > MaxStored {
		return fmt.Errorf("frame of chunk %v: %d bytes, want 1..%d", id, len(stored), MaxStored)
	}
	var h [FrameHeader]byte
	copy(h[:], id[:])
	binary.LittleEndian.PutUint32(h[len(id):], uint32(len(stored)))
	if _, err := w.Write(h[:]); err != nil {
		return fmt.Errorf("frame of chunk %v: %w", id, err)
	}
	if _, err := w.Write(stored); err != nil {
		return fmt.Errorf("frame of chunk %v: %w", id, err)
	}
	return nil
}

// ReadFrame reads what WriteFrame wrote. stored lies in buf if its capacity suffices, so it is valid until the next call with the same buf. The
// chunk is not checked: Unpack does that.
//
// io.EOF, unwrapped, means that the body ended after a whole frame. A body that ends inside a frame is io.ErrUnexpectedEOF, wrapped; a length that
// no stored chunk can have is ErrDamaged, wrapped, and nothing is allocated for it.
func ReadFrame(r io.Reader, buf []byte) (id ID, stored []byte, err error) {
	var h [FrameHeader]byte
	if n, err := io.ReadFull(r, h[:]); err == io.EOF {
		return ID{}, nil, io.EOF
	} else if err != nil {
		return ID{}, nil, fmt.Errorf("frame header: %d of %d bytes: %w", n, FrameHeader, err)
	}
	copy(id[:], h[:])
	n := binary.LittleEndian.Uint32(h[len(id):])
	if n == 0 || n > MaxStored {
		return ID{}, nil, fmt.Errorf("frame of chunk %v: %d bytes, want 1..%d: %w", id, n, MaxStored, ErrDamaged)
	}
	if cap(buf) < int(n) {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	if got, err := io.ReadFull(r, buf); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return ID{}, nil, fmt.Errorf("frame of chunk %v: %d of %d bytes: %w", id, got, n, err)
	}
	return id, buf, nil
}
