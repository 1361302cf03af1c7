package chunk

import (
	"fmt"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// The stored form of a chunk is one byte that says how, and the bytes. There is no length and no check sum in it: who asks for a chunk knows both.
const (
	codecRaw  = 0 // the bytes themselves
	codecZstd = 1 // one zstd frame (RFC 8878)
)

// MaxStored is more than the longest stored form that Pack makes: a reader may refuse anything longer before it allocates.
const MaxStored = Size + 64

// EncodeAll and DecodeAll of one encoder and one decoder may be called from any number of goroutines; each keeps as many states as there are cores
// and makes them on first use. Neither starts goroutines for this.
var (
	encoder = sync.OnceValue(func() *zstd.Encoder {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false),
			zstd.WithWindowSize(Size), zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)))
		if err != nil {
			panic("BUG: zstd encoder: " + err.Error())
		}
		return e
	})
	decoder = sync.OnceValue(func() *zstd.Decoder {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxMemory(Size), zstd.WithDecoderMaxWindow(Size), zstd.WithDecodeAllCapLimit(true))
		if err != nil {
			panic("BUG: zstd decoder: " + err.Error())
		}
		return d
	})
)

// Pack returns the stored form of raw, 1 to Size bytes: compressed if that saves at least a sixteenth, else as it is. It overwrites dst and uses
// its capacity where it suffices; dst must not overlap raw. The stored form is at most len(raw)+1 bytes long. Any number of goroutines may pack.
func Pack(dst, raw []byte) []byte {
	if len(raw) > Size {
		panic(fmt.Sprintf("BUG: pack a chunk of %d bytes", len(raw)))
	}
	dst = append(dst[:0], codecZstd)
	dst = encoder().EncodeAll(raw, dst)
	if len(dst)-1 > len(raw)-len(raw)/16 || len(raw) < 16 {
		dst = append(dst[:0], codecRaw)
		dst = append(dst, raw...)
	}
	return dst
}

// Unpack turns a stored form back into the n bytes (1 to Size) of the chunk want, and checks the hash of the very buffer that it returns. It
// overwrites dst and uses its capacity where it suffices; dst must not overlap stored. It never allocates more than n bytes for the result,
// whatever stored claims. Any error wraps ErrDamaged, and then nothing of dst may be used. Any number of goroutines may unpack.
//
// The zero ID has no stored form: asking for it is an error.
func Unpack(dst, stored []byte, want ID, n int) ([]byte, error) {
	if n < 1 || n > Size {
		return nil, fmt.Errorf("chunk %v: length %d is out of range 1..%d: %w", want, n, Size, ErrDamaged)
	}
	dst, err := unpack(dst, stored, want, n)
	if err == nil && len(dst) != n {
		return nil, fmt.Errorf("chunk %v: %d bytes, want %d: %w", want, len(dst), n, ErrDamaged)
	}
	return dst, err
}

// UnpackAny is Unpack for callers that do not know the length of the chunk: the hash vouches for it. It needs room for Size bytes in dst, or makes it.
func UnpackAny(dst, stored []byte, want ID) ([]byte, error) { return unpack(dst, stored, want, Size) }

// unpack accepts up to limit bytes.
func unpack(dst, stored []byte, want ID, limit int) ([]byte, error) {
	if len(stored) < 2 || len(stored) > MaxStored || want.Implied() {
		return nil, fmt.Errorf("chunk %v: stored form of %d bytes: %w", want, len(stored), ErrDamaged)
	}
	if cap(dst) < limit {
		dst = make([]byte, 0, limit)
	}
	dst = dst[:0:limit]
	switch body := stored[1:]; stored[0] {
	case codecRaw:
		if len(body) > limit {
			return nil, fmt.Errorf("chunk %v: more than %d bytes: %w", want, limit, ErrDamaged)
		}
		dst = append(dst, body...)
	case codecZstd:
		var err error
		if dst, err = decoder().DecodeAll(body, dst); err != nil {
			return nil, fmt.Errorf("chunk %v: zstd: %w: %w", want, err, ErrDamaged)
		}
	default:
		return nil, fmt.Errorf("chunk %v: unknown codec %d: %w", want, stored[0], ErrDamaged)
	}
	if got := Sum(dst); got != want {
		return nil, fmt.Errorf("chunk %v: content hashes to %v: %w", want, got, ErrDamaged)
	}
	return dst, nil
}
