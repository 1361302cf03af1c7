package chunk

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/zeebo/blake3"
)

// Manifest lists the chunks of one image version in order.
type Manifest struct {
	Size int64 // logical bytes, at least 0
	IDs  []ID  // one for each Size bytes or part of them, in order
}

// The encoding, all numbers little endian:
//
//	16 bytes  magic, with the version of the format as its last character
//	 4 bytes  chunk size, always 262144 in this version
//	 8 bytes  logical size, 0 to 2^63-1
//	32 bytes  for each chunk, in order: its ID
//
// Nothing is optional and nothing follows, so that one content has exactly one encoding and a root names it.
const (
	magic      = "carte.manifest.1"
	headerSize = len(magic) + 4 + 8
)

// Count returns how many chunks size bytes have. It panics if size is negative.
func Count(size int64) int {
	if size < 0 {
		panic("BUG: chunk count of a negative size")
	}
	n := size / Size
	if size%Size != 0 {
		n++
	}
	return int(n)
}

// Encode returns the canonical encoding of m: the same content gives the same bytes. It panics if the number of IDs does not follow from the size.
func (m Manifest) Encode() []byte {
	if len(m.IDs) != Count(m.Size) {
		panic(fmt.Sprintf("BUG: manifest of %d bytes with %d chunks", m.Size, len(m.IDs)))
	}
	b := make([]byte, 0, headerSize+len(m.IDs)*len(ID{}))
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint32(b, Size)
	b = binary.LittleEndian.AppendUint64(b, uint64(m.Size))
	for i := range m.IDs {
		b = append(b, m.IDs[i][:]...)
	}
	return b
}

// Root returns the name of this content: the BLAKE3-256 of the encoding. It is never the zero ID.
func (m Manifest) Root() ID { return blake3.Sum256(m.Encode()) }

// Decode reads what Encode wrote, and nothing else: a wrong magic, an impossible size, a missing or an extra byte is an error that wraps
// ErrDamaged and names the place. It allocates no more than the length of b.
func Decode(b []byte) (Manifest, error) {
	if len(b) < headerSize {
		return Manifest{}, fmt.Errorf("manifest: %d bytes, the header alone has %d: %w", len(b), headerSize, ErrDamaged)
	}
	if string(b[:len(magic)]) != magic {
		return Manifest{}, fmt.Errorf("manifest: byte 0: not a carte manifest of version 1: %w", ErrDamaged)
	}
	if n := binary.LittleEndian.Uint32(b[len(magic):]); n != Size {
		return Manifest{}, fmt.Errorf("manifest: byte %d: chunk size %d, want %d: %w", len(magic), n, Size, ErrDamaged)
	}
	size := binary.LittleEndian.Uint64(b[len(magic)+4:])
	if size > math.MaxInt64 {
		return Manifest{}, fmt.Errorf("manifest: byte %d: size %d is out of range: %w", len(magic)+4, size, ErrDamaged)
	}
	m := Manifest{Size: int64(size)}
	n, rest := Count(m.Size), b[headerSize:]
	if have := len(rest) / len(ID{}); have < n {
		return Manifest{}, fmt.Errorf("manifest: byte %d: cut off: %d of %d chunk ids: %w", len(b), have, n, ErrDamaged)
	}
	if end := headerSize + n*len(ID{}); end != len(b) {
		return Manifest{}, fmt.Errorf("manifest: byte %d: %d bytes too many: %w", end, len(b)-end, ErrDamaged)
	}
	if n > 0 {
		m.IDs = make([]ID, n)
	}
	for i := range m.IDs {
		copy(m.IDs[i][:], rest[i*len(ID{}):])
	}
	return m, nil
}

// Len returns the length of chunk i in bytes: Size, or for the last chunk what remains. It panics if there is no chunk i.
func (m Manifest) Len(i int) int {
	if i < 0 || i >= len(m.IDs) {
		panic(fmt.Sprintf("BUG: chunk %d of %d", i, len(m.IDs)))
	}
	return int(min(Size, m.Size-int64(i)*Size))
}

// Content returns the bytes that are in chunks which are neither all zero nor free, in 0..m.Size. It counts a chunk as often as it occurs.
func (m Manifest) Content() int64 {
	var n int64
	for i := range m.IDs {
		if !m.IDs[i].Implied() {
			n += int64(m.Len(i))
		}
	}
	return n
}

// Diff returns, in rising order, the indexes of the chunks of b that a does not have at the same place with the same length: what must be written
// to turn a disk that holds a into one that holds b.
func Diff(a, b Manifest) []int {
	var d []int
	for i := range b.IDs {
		if b.IDs[i] == Free {
			continue
		}
		if i >= len(a.IDs) || a.IDs[i] != b.IDs[i] || a.Len(i) != b.Len(i) {
			d = append(d, i)
		}
	}
	return d
}
