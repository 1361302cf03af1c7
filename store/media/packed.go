package media

import (
	"bufio"
	"errors"
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

func openZstd(r io.Reader) (io.Reader, func() error, error) {
	z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(512<<20), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, nil, err
	}
	return z, func() error { z.Close(); return nil }, nil
}

// errTrails is what follows a whole packed image and is no further part of it.
var errTrails = errors.New("something follows the end")

// gzipMembers reads one gzip member after the other (RFC 1952, section 2.2). The package could do that by itself, but calls a few bytes of anything else
// behind the last one a file that ends too early.
type gzipMembers struct {
	br *bufio.Reader
	z  *gzip.Reader
}

func openGzip(r io.Reader) (io.Reader, func() error, error) {
	br, ok := r.(*bufio.Reader) // or the package would read ahead of the member's end
	if !ok {
		br = bufio.NewReader(r)
	}
	z, err := gzip.NewReader(br)
	if err != nil {
		return nil, nil, err
	}
	z.Multistream(false)
	return &gzipMembers{br, z}, nil, nil
}

func (g *gzipMembers) Read(p []byte) (int, error) {
	n, err := g.z.Read(p)
	if err != io.EOF {
		return n, err
	}
	head, err := g.br.Peek(len(gzipMagic))
	switch {
	case err != nil && err != io.EOF:
		return n, err
	case len(head) == 0:
		return n, io.EOF
	case !strings.HasPrefix(gzipMagic, string(head)):
		return n, errTrails
	}
	if err := g.z.Reset(g.br); err != nil {
		return n, short(err)
	}
	g.z.Multistream(false)
	return n, nil
}

// short is err, where an end in the middle is not the end.
func short(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// trails says whether err is about what follows a whole packed image. The packers have no common word for it.
func trails(err error) bool {
	return errors.Is(err, errTrails) || errors.Is(err, zstd.ErrMagicMismatch) ||
		strings.Contains(err.Error(), "xz: invalid header magic") || strings.Contains(err.Error(), "bad magic value in continuation file")
}
