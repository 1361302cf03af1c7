// Package chunk cuts disks and files into fixed pieces that are known by their content.
//
// A disk image is stored, sent and compared as chunks of 256 KiB at aligned offsets. A chunk's ID is the BLAKE3-256 of its bytes; a chunk of
// zeros has the zero ID and is implied: never stored, never sent. The ordered list of IDs with the size is a Manifest, and the hash of the
// manifest's encoding is the root that names a version of an image. Chunks travel and rest in one stored form (Pack, Unpack), many of them in
// one body as frames (WriteFrame, ReadFrame).
//
// The package works on bytes, io.Reader and io.Writer. It refuses to know files, disks, packs, HTTP and what an image is. It is the only home of
// BLAKE3; klauspost's zstd lives here and in store/media.
//
// Fixed, aligned chunks do as well as content-defined ones on disk images at four times the speed (six Debian images of 2 GiB: 12 GiB became
// 481 MiB), and they can be compared with a disk in place.
package chunk

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/zeebo/blake3"
)

// Size is the length of a chunk in bytes. Every chunk starts at a multiple of Size; only the last one of a manifest may be shorter.
const Size = 256 << 10

// ErrDamaged is wrapped by every error that means: these bytes are not what their name promises. Nothing of them may be used.
var ErrDamaged = errors.New("damaged")

// ID is the BLAKE3-256 of a chunk's bytes, or of a manifest's encoding. The zero ID stands for a chunk of zeros of whatever length.
type ID [32]byte

// Sum returns the ID of b: the zero ID if every byte of b is zero (or b is empty), else BLAKE3-256.
func Sum(b []byte) ID {
	if IsZero(b) {
		return ID{}
	}
	return blake3.Sum256(b)
}

// Free stands for a chunk whose bytes nobody needs: the free space of a file system. It is never stored, never sent and never written; whoever
// reads it gets zeros. No content has this ID.
var Free = ID(bytes.Repeat([]byte{0xff}, 32))

// Implied reports whether id stands for a chunk that is neither stored nor sent: one of zeros, or Free.
func (id ID) Implied() bool { return id.IsZero() || id == Free }

// String returns the ID as 64 lower-case hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// IsZero reports whether id stands for an all-zero chunk.
func (id ID) IsZero() bool { return id == ID{} }

// ParseID reads 64 hexadecimal digits.
func ParseID(s string) (ID, error) {
	var id ID
	return id, id.UnmarshalText([]byte(s))
}

// MarshalText writes the ID as String does.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what MarshalText wrote. On an error id is left as it was.
func (id *ID) UnmarshalText(b []byte) error {
	if len(b) != hex.EncodedLen(len(id)) {
		return fmt.Errorf("chunk id: %d characters, want %d hexadecimal digits", len(b), hex.EncodedLen(len(id)))
	}
	var got ID
	if _, err := hex.Decode(got[:], b); err != nil {
		return fmt.Errorf("chunk id: %w", err)
	}
	*id = got
	return nil
}

// NewHash returns a running BLAKE3-256, for what is no chunk. Unlike Sum it knows no zeros.
func NewHash() hash.Hash { return blake3.New() }

var zeros [4096]byte

// IsZero reports whether every byte of b is zero. It compares by pages, at memory speed, and stops at the first page that is not zero.
func IsZero(b []byte) bool {
	for len(b) > len(zeros) {
		if !bytes.Equal(b[:len(zeros)], zeros[:]) {
			return false
		}
		b = b[len(zeros):]
	}
	return bytes.Equal(b, zeros[:len(b)])
}

// Scan reads r to its end, cuts it into chunks and returns their manifest. each, if not nil, is called once for every chunk in order, zero chunks
// included; b is valid and unchanged only until each returns, and must not be written to. Scan reads and hashes on the caller's goroutine.
//
// An error from r or each, or the end of ctx, ends the scan with that error and no manifest: half a stream is not an image.
func Scan(ctx context.Context, r io.Reader, each func(i int, b []byte) error) (Manifest, error) {
	var m Manifest
	buf := make([]byte, Size)
	for i := 0; ; i++ {
		if err := ctx.Err(); err != nil {
			return Manifest{}, err
		}
		n, err := io.ReadFull(r, buf)
		last := err == io.EOF || err == io.ErrUnexpectedEOF
		if err != nil && !last {
			return Manifest{}, fmt.Errorf("read chunk %d at byte %d: %w", i, m.Size+int64(n), err)
		}
		if n > 0 {
			m.IDs = append(m.IDs, Sum(buf[:n]))
			m.Size += int64(n)
			if each != nil {
				if err := each(i, buf[:n]); err != nil {
					return Manifest{}, err
				}
			}
		}
		if last {
			return m, nil
		}
	}
}
