package store

import (
	"context"
	"fmt"
	"io"
	"os"

	"carte/lab"
	"carte/lab/chunk"
)

// Export writes the version's bytes to w, in order, each chunk hashed in the buffer that is written. progress, if not nil, is told the bytes done
// so far. An error may come when part is written already: then w must not be used as an image.
func (c *Chunks) Export(ctx context.Context, root chunk.ID, w io.Writer, progress func(done int64)) error {
	zeros := make([]byte, chunk.Size)
	return c.export(ctx, root, progress, func(b []byte, off int64, n int) error {
		if b == nil {
			b = zeros[:n]
		}
		_, err := w.Write(b)
		return err
	}, nil)
}

// ExportFile writes the version into a regular file, which is emptied first; chunks of zeros become holes. The caller syncs and closes f, and
// removes it after an error.
func (c *Chunks) ExportFile(ctx context.Context, root chunk.ID, f *os.File, progress func(done int64)) error {
	if st, err := f.Stat(); err != nil {
		return fmt.Errorf("export: %w", err)
	} else if !st.Mode().IsRegular() {
		return fmt.Errorf("export to %s: not a regular file; to write a disk use carte flash: %w", f.Name(), lab.ErrRefused)
	}
	return c.export(ctx, root, progress, func(b []byte, off int64, n int) error {
		if b == nil {
			return nil
		}
		_, err := f.WriteAt(b, off)
		return err
	}, func(size int64) error {
		if err := f.Truncate(0); err != nil {
			return err
		}
		return f.Truncate(size)
	})
}

// export hands the chunks to write in order; b is nil for n bytes of zeros. prepare, if not nil, is told the size before.
func (c *Chunks) export(ctx context.Context, root chunk.ID, progress func(int64), write func(b []byte, off int64, n int) error, prepare func(int64) error) error {
	m, err := c.Manifest(root)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	if prepare != nil {
		if err := prepare(m.Size); err != nil {
			return fmt.Errorf("export %v: %w", root, err)
		}
	}
	buf := make([]byte, chunk.Size)
	for i, id := range m.IDs {
		if err := ctx.Err(); err != nil {
			return err
		}
		off, n := int64(i)*chunk.Size, m.Len(i)
		var b []byte
		if !id.Implied() {
			if b, err = c.Get(id, buf); err != nil {
				return fmt.Errorf("export %v at byte %d: %w", root, off, err)
			}
			if len(b) != n {
				return fmt.Errorf("export %v at byte %d: chunk of %d bytes, want %d: %w", root, off, len(b), n, lab.ErrDamaged)
			}
		}
		if err := write(b, off, n); err != nil {
			return fmt.Errorf("export %v at byte %d: %w", root, off, err)
		}
		if progress != nil {
			progress(off + int64(n))
		}
	}
	return nil
}
