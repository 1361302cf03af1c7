package media

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
	"github.com/lima-vm/go-qcow2reader/image"
	"github.com/lima-vm/go-qcow2reader/image/qcow2"
	"github.com/lima-vm/go-qcow2reader/image/raw"
	"github.com/lima-vm/go-qcow2reader/log"

	"carte/lab"
)

// setUpQcow2 teaches the reader the second compression of qcow2 (qemu-img -o compression_type=zstd), gives it the faster inflate, and keeps it from
// printing on a screen that is not its own.
var setUpQcow2 = sync.OnceFunc(func() {
	log.SetWarnFunc(nil)
	qcow2.SetDecompressor(qcow2.CompressionTypeZlib, func(r io.Reader) (io.ReadCloser, error) {
		z := flate.NewReader(r)
		return &oneCluster{z, func() { z.Close() }}, nil
	})
	qcow2.SetDecompressor(qcow2.CompressionTypeZstd, func(r io.Reader) (io.ReadCloser, error) {
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(8<<20))
		if err != nil {
			return nil, err
		}
		return &oneCluster{z, z.Close}, nil
	})
})

// oneCluster fills the buffer it is given: the reader asks once for each cluster and starts from its beginning for what is missing. What follows the
// cluster, up to a whole sector, is never looked at.
type oneCluster struct {
	r     io.Reader
	close func()
}

func (o *oneCluster) Read(p []byte) (int, error) { return io.ReadFull(o.r, p) }
func (o *oneCluster) Close() error               { o.close(); return nil }

// openQcow2 makes s read the logical disk in a qcow2 image. Its tables point anywhere, so what is not a plain file is unpacked into one first.
func (s *Source) openQcow2(ctx context.Context, r io.Reader, file *os.File, plain bool, temp string) error {
	setUpQcow2()
	dir := ""
	if file != nil && plain {
		if s.owned {
			dir = filepath.Dir(s.name)
		}
	} else {
		var err error
		if file, err = s.spool(ctx, r, temp); err != nil {
			return err
		}
	}
	img, err := openBeside(file, dir, s.name, 0)
	if err != nil {
		return err
	}
	s.closers = append(s.closers, img.Close)
	s.Size, s.Total = img.Size(), img.Size()
	s.r, s.at = &qcow2Reader{img: img, size: img.Size()}, img
	s.consumed = func() int64 { return s.off }
	return nil
}

// spool writes r into a file that has no name any more, so that nothing is left behind even by a kill.
func (s *Source) spool(ctx context.Context, r io.Reader, temp string) (*os.File, error) {
	f, err := os.CreateTemp(temp, "unpacked-*")
	if err != nil {
		return nil, fmt.Errorf("%s must be unpacked to read it: %w", s.name, err)
	}
	s.closers = append(s.closers, f.Close)
	if err := os.Remove(f.Name()); err != nil {
		return nil, err
	}
	buf := make([]byte, 1<<20)
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n, err := r.Read(buf)
		if _, werr := f.Write(buf[:n]); werr != nil {
			return nil, fmt.Errorf("unpack %s into %s: %w", s.name, temp, werr)
		}
		if err == io.EOF {
			return f, nil
		}
		if err != nil {
			return nil, s.explain(err)
		}
	}
}

// openBeside opens a qcow2 image after checking what the reader does not. A backing file must lie beside the image, under a plain name: an image
// that came from elsewhere must not be able to read this machine's files.
func openBeside(file *os.File, dir, name string, depth int) (image.Image, error) {
	h, err := readQcow2Header(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	backing := ""
	if h.backing != "" {
		switch {
		case dir == "":
			err = fmt.Errorf("it needs its backing file %q, which did not come with it; make one file of both first: qemu-img convert -O qcow2 FILE NEW", h.backing)
		case filepath.IsAbs(h.backing), filepath.Base(h.backing) != h.backing, h.backing == "..", h.backing == ".":
			err = fmt.Errorf("it needs its backing file %q, which is not beside it; make one file of both first: qemu-img convert -O qcow2 FILE NEW", h.backing)
		case depth == 8:
			err = fmt.Errorf("its chain of backing files is longer than %d", depth)
		default:
			backing = filepath.Join(dir, h.backing)
			var st os.FileInfo
			if st, err = os.Lstat(backing); err == nil && !st.Mode().IsRegular() {
				err = fmt.Errorf("its backing file %q is not a regular file", h.backing)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w: %w", name, err, lab.ErrRefused)
		}
	}
	// The reader closes a backing file, and after an error whatever it was given instead, so there always is something.
	var refused error
	img, err := qcow2.Open(beside{file}, func(ra io.ReaderAt, format image.Type) (image.Image, error) {
		f, ok := ra.(*os.File)
		if !ok {
			panic("BUG: the qcow2 reader opened a backing file that is no file")
		}
		plain, _ := raw.Open(f)
		switch {
		case format == raw.Type, format == "" && !hasMagic(f):
			return plain, nil
		case format == "", format == qcow2.Type:
			inner, err := openBeside(f, dir, backing, depth+1)
			if err == nil {
				return withFile{inner, f}, nil
			}
			refused = err
		default:
			refused = fmt.Errorf("%s: its backing file has the format %q; convert it first: qemu-img convert -O qcow2 FILE NEW: %w", name, format, lab.ErrRefused)
		}
		return plain, refused
	})
	if err == nil {
		err = img.Readable()
	}
	if refused != nil {
		return nil, refused
	}
	if err != nil {
		return nil, fmt.Errorf("%s (qcow2): %w: %w", name, err, lab.ErrDamaged)
	}
	return img, nil
}

// beside lets the reader find files beside the image, but not close it.
type beside struct{ f *os.File }

func (b beside) ReadAt(p []byte, off int64) (int, error) { return b.f.ReadAt(p, off) }
func (b beside) Name() string                            { return b.f.Name() }

// withFile closes the file of a backing image with it.
type withFile struct {
	image.Image
	f *os.File
}

func (w withFile) Close() error { return errors.Join(w.Image.Close(), w.f.Close()) }

func hasMagic(f io.ReaderAt) bool {
	var b [4]byte
	_, err := f.ReadAt(b[:], 0)
	return err == nil && string(b[:]) == qcow2Magic
}

type qcow2Header struct {
	size    int64
	backing string
}

// readQcow2Header reads the fields that decide how much is allocated and which files are opened (docs/interop/qcow2.rst in QEMU's source).
func readQcow2Header(f *os.File) (qcow2Header, error) {
	bad := func(format string, a ...any) (qcow2Header, error) {
		return qcow2Header{}, fmt.Errorf("qcow2 header: "+format+": %w", append(a, lab.ErrDamaged)...)
	}
	st, err := f.Stat()
	if err != nil {
		return qcow2Header{}, err
	}
	length := st.Size()
	if st.Mode()&os.ModeDevice != 0 {
		if length, err = f.Seek(0, io.SeekEnd); err != nil {
			return qcow2Header{}, err
		}
	}
	b := make([]byte, 104)
	if n, err := f.ReadAt(b, 0); n < 72 {
		if err == io.EOF {
			return bad("cut off after %d bytes", n)
		}
		return qcow2Header{}, err
	}
	be := binary.BigEndian
	version, bits, size := be.Uint32(b[4:]), be.Uint32(b[20:]), be.Uint64(b[24:])
	l1, l1Offset := int64(be.Uint32(b[36:])), be.Uint64(b[40:])
	if version != 2 && version != 3 {
		return bad("byte 4: version %d, carte reads 2 and 3", version)
	}
	if bits < 9 || bits > 21 {
		return bad("byte 20: clusters of 2^%d bytes", bits)
	}
	if size > 1<<50 {
		return bad("byte 24: a disk of %d bytes", size)
	}
	cluster := uint64(1) << bits
	perL1 := cluster * (cluster / 16) // at least: extended entries have 16 bytes
	if need := (size + perL1 - 1) / perL1; uint64(l1) > 2*need+1 || l1*8 > length || l1Offset > uint64(length)-uint64(l1*8) {
		return bad("byte 36: a table of %d entries at byte %d, but the file has %d bytes", l1, l1Offset, length)
	}
	if version == 3 && be.Uint64(b[72:])&2 != 0 {
		return bad("byte 72: the image marks itself as corrupt; repair it first: qemu-img check -r all FILE")
	}
	h := qcow2Header{size: int64(size)}
	if at, n := be.Uint64(b[8:]), be.Uint32(b[16:]); at != 0 {
		if n == 0 || n > 1023 || at > uint64(length)-uint64(n) {
			return bad("byte 8: a backing file name of %d bytes at byte %d", n, at)
		}
		name := make([]byte, n)
		if _, err := f.ReadAt(name, int64(at)); err != nil {
			return qcow2Header{}, err
		}
		h.backing = string(name)
	}
	return h, nil
}

// qcow2Reader reads the logical disk from its beginning, never past its end.
type qcow2Reader struct {
	img       io.ReaderAt
	off, size int64
}

func (r *qcow2Reader) Read(p []byte) (int, error) {
	if r.off >= r.size {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), r.size-r.off, 1<<20)]
	n, err := r.img.ReadAt(p, r.off)
	n = min(n, len(p))
	r.off += int64(n)
	if n == len(p) {
		return n, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = fmt.Errorf("the data of the cluster is cut off: %w", io.ErrUnexpectedEOF)
	}
	return n, err
}
