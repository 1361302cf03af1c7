package chunk

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// packedMagic begins a packed manifest: the magic, then one zstd frame (RFC 8878) of the encoding. It is as long as magic, so that neither is the
// beginning of the other.
const packedMagic = "carte.manifest.z"

// maxEncoded is the most bytes that a manifest may unpack to: that of an image of 16 TiB.
const maxEncoded = int64(headerSize) + 32<<26

// Packed returns m for keeping: where nothing or zeros are listed again and again it is a fraction of Encode, and never much longer. The root is not
// that of these bytes.
func (m Manifest) Packed() []byte { return encoder().EncodeAll(m.Encode(), []byte(packedMagic)) }

// DecodePacked reads what Packed or Encode wrote. Any other bytes are an error that wraps ErrDamaged. It allocates a small multiple of what there
// really is, whatever b claims.
func DecodePacked(b []byte) (Manifest, error) {
	if !strings.HasPrefix(string(b[:min(len(b), len(packedMagic))]), packedMagic) {
		return Decode(b)
	}
	d, err := zstd.NewReader(bytes.NewReader(b[len(packedMagic):]), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(Size))
	if err != nil {
		return Manifest{}, fmt.Errorf("manifest: zstd: %v: %w", err, ErrDamaged)
	}
	defer d.Close()
	encoding, err := io.ReadAll(io.LimitReader(d, maxEncoded+1))
	if err != nil {
		return Manifest{}, fmt.Errorf("manifest: zstd: %v: %w", err, ErrDamaged)
	}
	return Decode(encoding)
}
