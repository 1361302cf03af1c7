package media

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"carte/lab"
	"carte/lab/ext4"
)

// spool holds the contents of files, one behind the other, in a file without a name.
type spool struct {
	f   *os.File
	end int64
	buf []byte
}

func newSpool(dir string) (*spool, error) {
	f, err := os.CreateTemp(dir, "files-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return &spool{f: f, buf: make([]byte, 1<<20)}, nil
}

func (s *spool) Close() error { return s.f.Close() }

// room refuses what cannot fit: before gigabytes of it were written.
func (s *spool) room(n int64) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(s.f.Fd()), &st); err != nil {
		return nil // then the writing will tell
	}
	if free := int64(st.Bavail) * st.Bsize; n > free {
		return fmt.Errorf("it declares %s, and %s has %s free; make room there: %w", lab.Bytes(n), filepath.Dir(s.f.Name()), lab.Bytes(free), lab.ErrInvalid)
	}
	return nil
}

// keep stores size bytes of r and says where they are. Blocks of a sparse file that are all zero are left out.
func (s *spool) keep(ctx context.Context, r io.Reader, size int64, sparse bool) (runs []ext4.Run, err error) {
	for at := int64(0); at < size; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		b := s.buf[:min(int64(len(s.buf)), size-at)]
		if _, err := io.ReadFull(r, b); err != nil {
			return nil, short(err)
		}
		if sparse {
			runs, err = s.holes(runs, b, at)
		} else {
			if err = s.write(b); at == 0 {
				runs = []ext4.Run{{Bytes: size, From: s.end - int64(len(b))}}
			}
		}
		if err != nil {
			return nil, err
		}
		at += int64(len(b))
	}
	return runs, nil
}

// holes stores those blocks of b that are not zero.
func (s *spool) holes(runs []ext4.Run, b []byte, at int64) ([]ext4.Run, error) {
	for len(b) > 0 {
		n := min(len(b), ext4.BlockSize)
		if !bytes.Equal(b[:n], zeros[:n]) {
			if k := len(runs) - 1; k >= 0 && runs[k].At+runs[k].Bytes == at && runs[k].From+runs[k].Bytes == s.end {
				runs[k].Bytes += int64(n)
			} else {
				runs = append(runs, ext4.Run{At: at, Bytes: int64(n), From: s.end})
			}
			if err := s.write(b[:n]); err != nil {
				return nil, err
			}
		}
		b, at = b[n:], at+int64(n)
	}
	return runs, nil
}

var zeros [ext4.BlockSize]byte

// write appends b. Where it is all zero, it costs no room.
func (s *spool) write(b []byte) error {
	begin := s.end
	s.end += int64(len(b))
	for len(b) > 0 {
		n := min(len(b), 64<<10)
		if !zero(b[:n]) {
			if _, err := s.f.WriteAt(b[:n], begin); err != nil {
				return fmt.Errorf("keep the contents of files: %w", err)
			}
		}
		b, begin = b[n:], begin+int64(n)
	}
	return nil
}

// seal makes the file as long as what was kept in it: zeros at its end were not written.
func (s *spool) seal() error { return s.f.Truncate(s.end) }

// zero says that b holds nothing else.
func zero(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), len(zeros))
		if !bytes.Equal(b[:n], zeros[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}

// reader reads a file's content from its beginning to its end.
func (f *Files) reader(n *ext4.Node) io.Reader {
	var all []io.Reader
	at := int64(0)
	for _, r := range n.Data {
		if r.At > at {
			all = append(all, io.LimitReader(nothing{}, r.At-at))
		}
		all, at = append(all, io.NewSectionReader(f.bytes, r.From, r.Bytes)), r.At+r.Bytes
	}
	if at < n.Size {
		all = append(all, io.LimitReader(nothing{}, n.Size-at))
	}
	return io.MultiReader(all...)
}

// nothing is zeros without end.
type nothing struct{}

func (nothing) Read(p []byte) (int, error) { clear(p); return len(p), nil }
