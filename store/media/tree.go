package media

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"sync"

	"github.com/Microsoft/hcsshim/ext4/tar2ext4"

	"carte/lab"
	"carte/lab/ext4"
)

// TreeOptions say what Tree cannot know from the files.
type TreeOptions = ext4.Options

// Tree builds an ext4 file system with a journal from a tar stream, in pure Go, and writes it to out, a regular file, from its beginning to its end.
// The files lie in the order of the tar, so what is expected to change belongs at its end. The same stream and options give the same bytes. The caller
// syncs and closes out, and removes it after an error.
//
// Kept are directories, regular files, hard and symbolic links, devices, pipes, owners, modes, modification times and extended attributes. Names are
// taken relative to the root of the file system, whatever they begin with.
//
// lab.ErrInvalid: the options, an entry that ext4 cannot hold, or files that do not fit into Size. lab.ErrDamaged: the tar is corrupt or has no end.
func Tree(ctx context.Context, in io.Reader, out *os.File, opt TreeOptions) error {
	if err := opt.Check(); err != nil {
		return err
	}
	if err := out.Truncate(0); err != nil {
		return err
	}
	if _, err := out.Seek(0, io.SeekStart); err != nil {
		return err
	}
	t := &treeBuilder{in: in, out: out}
	if err := t.Run(ctx); err != nil {
		return err
	}
	return ext4.LayOut(out, opt)
}

// treeBuilder is a tar stream on its way into tar2ext4, which reads a tar and nothing else.
type treeBuilder struct {
	in  io.Reader
	out *os.File
}

// Run cleans the tar on one goroutine and converts it on this one.
func (t *treeBuilder) Run(ctx context.Context) error {
	pr, pw := io.Pipe()
	var cleaned error
	var all sync.WaitGroup
	all.Go(func() {
		w := bufio.NewWriterSize(pw, 256<<10)
		if cleaned = cleanTar(ctx, t.in, w); cleaned == nil {
			cleaned = w.Flush()
		}
		pw.CloseWithError(cleaned)
	})
	err := tar2ext4.ConvertTarToExt4(pr, t.out, tar2ext4.MaximumDiskSize(ext4.MaxSize))
	pr.CloseWithError(errConverted)
	all.Wait()
	if cleaned != nil && !errors.Is(cleaned, errConverted) {
		return cleaned
	}
	if errors.As(err, new(*os.PathError)) {
		return fmt.Errorf("write ext4: %w", err)
	}
	if err != nil {
		return fmt.Errorf("tar to ext4: %w: %w", err, lab.ErrInvalid)
	}
	return nil
}

// errConverted ends the cleaner once the converter wants no more. It stops after the tar's end mark, or with an error of its own.
var errConverted = errors.New("the converter has ended")

// exact counts what is read, and the zeros at its end, and never reads ahead, so that the end mark of a tar can be told from the end of the file.
type exact struct {
	r     io.Reader
	n     int64
	zeros int64
}

func (e *exact) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	e.n += int64(n)
	if rest := bytes.TrimRight(p[:n], "\x00"); len(rest) > 0 {
		e.zeros = int64(n - len(rest))
	} else {
		e.zeros += int64(n)
	}
	return n, err
}

// cleanTar copies the entries in a form that depends on what they say only, and names the one that is wrong. archive/tar takes the end of the file for
// the end of the tar; here that is damage.
func cleanTar(ctx context.Context, in io.Reader, out io.Writer) error {
	src := &exact{r: bufio.NewReaderSize(in, 256<<10)}
	r, w := tar.NewReader(src), tar.NewWriter(out)
	name, end := "the first entry", int64(0) // where the next header begins
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := r.Next()
		if err == io.EOF {
			if src.n < end+512 || src.zeros < 512 { // the second: not the header that announces another
				return fmt.Errorf("tar: cut off after %q at byte %d: %w", name, src.n, lab.ErrDamaged)
			}
			return w.Close()
		}
		if err != nil {
			return fmt.Errorf("tar: after %q at byte %d: %w: %w", name, src.n, err, lab.ErrDamaged)
		}
		name = h.Name
		clean, err := cleanHeader(h)
		if err != nil {
			return err
		}
		if clean != nil {
			if err := w.WriteHeader(clean); err != nil {
				return fmt.Errorf("tar: %q: %w", name, err)
			}
		}
		if err := copyBody(ctx, w, r, clean != nil && clean.Size > 0); err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) {
				return fmt.Errorf("tar: cut off inside %q at byte %d: %w", name, src.n, lab.ErrDamaged)
			}
			return fmt.Errorf("tar: %q: %w", name, err)
		}
		end = (src.n + 511) &^ 511
	}
}

func copyBody(ctx context.Context, w io.Writer, r io.Reader, keep bool) error {
	if !keep {
		w = io.Discard
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := io.CopyN(w, r, 1<<20); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// cleanHeader returns what of an entry ends up on the disk; nil for an entry that is none.
func cleanHeader(h *tar.Header) (*tar.Header, error) {
	name := path.Clean("/" + h.Name)[1:]
	for part := range strings.SplitSeq(name, "/") {
		if len(part) > 255 {
			return nil, fmt.Errorf("tar: %q: a name of %d bytes, ext4 holds 255: %w", h.Name, len(part), lab.ErrInvalid)
		}
	}
	c := &tar.Header{Typeflag: h.Typeflag, Name: name, Linkname: h.Linkname, Mode: h.Mode & 0o7777, Uid: h.Uid, Gid: h.Gid,
		ModTime: h.ModTime, AccessTime: h.ModTime, ChangeTime: h.ModTime, Format: tar.FormatPAX}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeRegA, tar.TypeCont, tar.TypeGNUSparse:
		c.Typeflag, c.Size = tar.TypeReg, h.Size
	case tar.TypeLink:
		c.Linkname = path.Clean("/" + h.Linkname)[1:]
	case tar.TypeSymlink, tar.TypeFifo:
	case tar.TypeChar, tar.TypeBlock:
		c.Devmajor, c.Devminor = h.Devmajor, h.Devminor
	case tar.TypeDir:
		c.Name += "/"
	case tar.TypeXGlobalHeader:
		return nil, nil
	default:
		return nil, fmt.Errorf("tar: %q: an entry of type %q cannot be kept: %w", h.Name, h.Typeflag, lab.ErrInvalid)
	}
	if name == "" {
		if h.Typeflag != tar.TypeDir {
			return nil, fmt.Errorf("tar: %q: the root of a tree must be a directory: %w", h.Name, lab.ErrInvalid)
		}
		c.Name = "./"
	}
	for key, value := range h.PAXRecords {
		if strings.HasPrefix(key, "SCHILY.xattr.") {
			if c.PAXRecords == nil {
				c.PAXRecords = map[string]string{}
			}
			c.PAXRecords[key] = value
		}
	}
	return c, nil
}
