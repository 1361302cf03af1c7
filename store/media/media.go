// Package media turns the files that people have into the bytes that go onto a disk, and says what is in them.
//
// Open reads an image whatever it is wrapped in (gz, xz, zst, bz2, qcow2, one in the other) by looking at its content, never at its name. Sniff
// finds partition tables, file systems and boot code. Tree builds an ext4 file system from a tar stream without root or loop devices.
//
// The package refuses to know chunks, versions and the catalogue: it reads and writes plain bytes. It never runs another program. A truncated or
// corrupt input is an error that names the file and the place; half an image is never taken for a whole one.
package media

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/ulikunitz/xz"

	"carte/lab"
)

// Source is an image that is being read from its first byte to its last. Close it. One goroutine at a time.
type Source struct {
	Size   int64  // bytes that Read will give; -1 if only the end will tell
	Total  int64  // what Consumed will reach; -1 if unknown
	Format string // "raw", "tar", "qcow2", "qcow2 in zstd", "raw in xz in gzip", ...

	name     string
	owned    bool // name is the path by which Open opened it
	r        io.Reader
	off      int64 // of the image
	base     *counter
	at       io.ReaderAt // nil: only from the first byte to the last
	consumed func() int64
	closers  []func() error
	err      error
}

// counter counts what was read of the input, and remembers whether the input itself failed.
type counter struct {
	r   io.Reader
	n   int64
	err error
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}

// magics are the ways of packing. The ones without an opener are refused with a sentence.
var magics = []struct {
	at    int
	bytes string
	name  string
	open  func(io.Reader) (io.Reader, func() error, error)
	say   string
}{
	{0, gzipMagic, "gzip", openGzip, ""},
	{0, "\xfd7zXZ\x00", "xz", func(r io.Reader) (io.Reader, func() error, error) {
		z, err := xz.NewReader(r)
		return z, nil, err
	}, ""},
	{0, "\x28\xb5\x2f\xfd", "zstd", openZstd, ""},
	{0, "BZh", "bzip2", func(r io.Reader) (io.Reader, func() error, error) { return bzip2.NewReader(r), nil, nil }, ""},
	{0, debMagic, "deb", openDeb, ""},
	{0, "PK\x03\x04", "zip", nil, "a zip archive; unpack it and import the image in it"},
	{0, "7z\xbc\xaf\x27\x1c", "7z", nil, "a 7z archive; unpack it and import the image in it"},
	{0, "Rar!", "rar", nil, "a rar archive; unpack it and import the image in it"},
	{0, "KDMV", "vmdk", nil, convertFirst("VMware disk (vmdk)")},
	{0, "vhdxfile", "vhdx", nil, convertFirst("Hyper-V disk (vhdx)")},
	{64, "\x7f\x10\xda\xbe", "vdi", nil, convertFirst("VirtualBox disk (vdi)")},
	{0, "conectix", "vhd", nil, convertFirst("Virtual PC disk (vhd)")},
}

func convertFirst(what string) string {
	return "a " + what + "; convert it first: qemu-img convert -O qcow2 FILE FILE.qcow2"
}

const (
	gzipMagic  = "\x1f\x8b\x08"
	qcow2Magic = "QFI\xfb"
	headSize   = 1024 // enough for every magic above
	maxLayers  = 4    // gz in xz in ...: more is somebody's joke
)

// Open opens an image file or block device; "-" is standard input. A qcow2 image that is not a plain file is unpacked into a file without a name in
// the folder temp before Open returns; ctx ends that.
//
// lab.ErrNotFound: no such file. lab.ErrInvalid: empty, or a format that carte does not read. lab.ErrDamaged: its beginning is corrupt.
func Open(ctx context.Context, path, temp string) (*Source, error) {
	if path == "-" {
		return OpenReader(ctx, os.Stdin, "standard input", temp)
	}
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, lab.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	s := &Source{Size: -1, Total: -1, name: path, owned: true, closers: []func() error{f.Close}}
	st, err := f.Stat()
	if err == nil && st.IsDir() {
		err = fmt.Errorf("%s is a folder, not an image: %w", path, lab.ErrInvalid)
	}
	if err == nil && !st.Mode().IsRegular() && st.Mode()&os.ModeDevice == 0 {
		err = s.open(ctx, f, nil, temp) // a pipe
	} else if err == nil {
		if s.Total, err = f.Seek(0, io.SeekEnd); err == nil {
			_, err = f.Seek(0, io.SeekStart)
		}
		if err == nil {
			err = s.open(ctx, f, f, temp)
		}
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// OpenReader is Open for a stream, or for an open file that is a regular one and is read where it lies. name is what errors call it. A qcow2 image
// may have no backing file. Closing the source does not close r.
func OpenReader(ctx context.Context, r io.Reader, name, temp string) (*Source, error) {
	s := &Source{Size: -1, Total: -1, name: name}
	file, size := regular(r)
	if file != nil {
		s.Total = size
	}
	if err := s.open(ctx, r, file, temp); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// regular returns r and its length if it is a regular file of which nothing was read yet.
func regular(r io.Reader) (*os.File, int64) {
	f, ok := r.(*os.File)
	if !ok {
		return nil, 0
	}
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return nil, 0
	}
	if at, err := f.Seek(0, io.SeekCurrent); err != nil || at != 0 {
		return nil, 0
	}
	return f, st.Size()
}

// open peels off one wrapping after the other. file is the input if it can be read at any place.
func (s *Source) open(ctx context.Context, in io.Reader, file *os.File, temp string) error {
	s.base = &counter{r: in}
	s.consumed = func() int64 { return s.base.n }
	var r io.Reader = s.base
	var wrapped []string
	for {
		br := bufio.NewReaderSize(r, 256<<10)
		head, err := br.Peek(headSize)
		if err != nil && err != io.EOF {
			return s.explain(err)
		}
		if len(head) == 0 {
			return fmt.Errorf("%s is empty%s: %w", s.name, strings.Join(wrapped, ""), lab.ErrInvalid)
		}
		if bytes.HasPrefix(head, []byte(qcow2Magic)) {
			s.Format = "qcow2" + strings.Join(wrapped, "")
			return s.openQcow2(ctx, br, file, len(wrapped) == 0, temp)
		}
		i := packing(head)
		if i < 0 {
			s.r = br
			s.Format = "raw"
			if len(head) > 262 && string(head[257:262]) == "ustar" {
				s.Format = "tar"
			}
			s.Format += strings.Join(wrapped, "")
			if len(wrapped) == 0 {
				s.Size = s.Total
			}
			if len(wrapped) == 0 && file != nil {
				s.at = file
			}
			return nil
		}
		m := magics[i]
		if m.open == nil {
			return fmt.Errorf("%s is %s: %w", s.name, m.say, lab.ErrInvalid)
		}
		if len(wrapped) == maxLayers {
			return fmt.Errorf("%s is packed more than %d times over: %w", s.name, maxLayers, lab.ErrInvalid)
		}
		wrapped = append([]string{" in " + m.name}, wrapped...)
		s.Format = "image" + strings.Join(wrapped, "") // for errors until the core is known
		z, closer, err := m.open(br)
		if closer != nil {
			s.closers = append(s.closers, closer)
		}
		if err != nil {
			return s.explain(err)
		}
		r = z
	}
}

func packing(head []byte) int {
	for i, m := range magics {
		if len(head) >= m.at+len(m.bytes) && string(head[m.at:m.at+len(m.bytes)]) == m.bytes {
			return i
		}
	}
	return -1
}

// Read gives the bytes of the logical disk or file. io.EOF comes only after the last byte of a whole image; lab.ErrDamaged, wrapped, if the input
// is truncated or corrupt.
func (s *Source) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.r.Read(p)
	s.off += int64(n)
	switch {
	case err == io.EOF && s.Size >= 0 && s.off < s.Size:
		s.err = s.explain(io.ErrUnexpectedEOF)
	case err == io.EOF:
		s.err = io.EOF
	case err != nil:
		s.err = s.explain(err)
	}
	return n, s.err
}

// Random returns the image as something to be read at any place, and nil if it can only be read from its first byte to its last. Use that or Read, not
// both; the same errors come. One goroutine at a time.
func (s *Source) Random() io.ReaderAt {
	if s.at == nil {
		return nil
	}
	return anyPlace{s}
}

type anyPlace struct{ s *Source }

func (a anyPlace) ReadAt(p []byte, off int64) (int, error) {
	if off >= a.s.Size {
		return 0, io.EOF
	}
	want := int(min(int64(len(p)), a.s.Size-off))
	n, err := a.s.at.ReadAt(p[:want], off)
	n = min(n, want)
	a.s.off = off + int64(n)
	switch {
	case n == want && want == len(p):
		return n, nil
	case n == want:
		return n, io.EOF
	case err == nil || err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	return n, a.s.explain(err)
}

// Head returns the first n bytes of the image, or all that there are, before anything was read; at most 256 KiB.
func (s *Source) Head(n int) ([]byte, error) {
	if s.at != nil {
		b := make([]byte, n)
		got, err := s.Random().ReadAt(b, 0)
		if err == io.EOF {
			err = nil
		}
		s.off = 0
		return b[:got], err
	}
	peek, ok := s.r.(*bufio.Reader)
	if !ok {
		return nil, nil
	}
	b, err := peek.Peek(n)
	if err != nil && err != io.EOF {
		return nil, s.explain(err)
	}
	return b, nil
}

// explain says where the input went wrong and whose fault it is.
func (s *Source) explain(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	place := fmt.Sprintf("%s (%s): byte %d of the file, byte %d of the image", s.name, s.Format, s.base.n, s.off)
	if _, ok := s.r.(*qcow2Reader); ok { // the file is not read in order
		place = fmt.Sprintf("%s (%s): byte %d of the image", s.name, s.Format, s.off)
	}
	if s.base.err != nil {
		return fmt.Errorf("%s: %w", place, s.base.err)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) && strings.Contains(s.Format, "in xz") { // its reader does not tell the two apart
		return fmt.Errorf("%s: the file ends too early, or something else follows the packed image; fetch or pack it again: %w", place, lab.ErrDamaged)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || err == io.EOF {
		return fmt.Errorf("%s: the file ends too early; fetch or pack it again: %w", place, lab.ErrDamaged)
	}
	if trails(err) {
		return fmt.Errorf("%s: the packed image is over, and something else follows it; cut that off, or fetch or pack it again: %w", place, lab.ErrDamaged)
	}
	return fmt.Errorf("%s: corrupt (%w); fetch or pack it again: %w", place, err, lab.ErrDamaged)
}

// Consumed returns how much of Total was read, for a progress line.
func (s *Source) Consumed() int64 { return s.consumed() }

// Close frees what Open made, also the unpacked file.
func (s *Source) Close() error {
	var all error
	for i := len(s.closers) - 1; i >= 0; i-- {
		all = errors.Join(all, s.closers[i]())
	}
	s.closers = nil
	return all
}
