package media

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"

	"carte/lab/ext4"
)

// TreeOptions say what a file system's files do not.
type TreeOptions = ext4.Options

// Tree builds an ext4 file system with a journal from a tar stream, in pure Go, and writes it to out, a regular file, from its beginning to its end. See
// ReadFiles and Files.Build for what is kept and refused. The same stream and options give the same bytes. The caller syncs and closes out, and removes
// it after an error. A Size of 0 leaves at least 64 MiB of room.
func Tree(ctx context.Context, in io.Reader, out *os.File, opt TreeOptions) error {
	if err := opt.Check(); err != nil {
		return err
	}
	opt.Room = cmp.Or(opt.Room, 64<<20)
	files, err := ReadFiles(ctx, in, "")
	if err != nil {
		return err
	}
	defer files.Close()
	im, err := files.Build(ctx, opt, nil, 0)
	if err != nil {
		return err
	}
	if err := out.Truncate(0); err != nil {
		return err
	}
	if err := im.WriteTo(ctx, out); err != nil {
		return fmt.Errorf("write ext4: %w", err)
	}
	if err := out.Truncate(im.Size); err != nil {
		return err
	}
	_, err = out.Seek(0, io.SeekEnd)
	return err
}

// Files are the files of a tar, an OCI image or what docker save writes, on their way into a file system, or those of a file system that is there. Their
// contents are in a file without a name or where they were, and what else there is to know about them in memory, some hundred bytes for each. Close them.
type Files struct {
	Notes []string // what was left out, in words

	root  *ext4.Node
	nodes []*ext4.Node // in the order in which they came
	born  map[*ext4.Node]int
	layer int            // of an image with layers, from 1
	came  int            // members of tars that were taken in
	spool *spool         // nil: nothing came by tar
	bytes io.ReaderAt    // all contents
	left  map[string]int // what was left out, how often
}

// Close gives the room of the contents back.
func (f *Files) Close() error {
	if f.spool == nil {
		return nil
	}
	return f.spool.Close()
}

// Empty says that there is nothing in the root.
func (f *Files) Empty() bool { return len(f.root.Names) == 0 }

// Build makes the file system, which can be read until f is closed. parent is an earlier version of it, of size bytes, or nil: its places are kept, if it
// was built here, so that only what has changed is new. lab.ErrInvalid: see ext4.Build.
func (f *Files) Build(ctx context.Context, opt TreeOptions, parent io.ReaderAt, size int64) (*ext4.Image, error) {
	var older *ext4.Older
	if parent != nil {
		var err error
		if older, err = ext4.ReadOlder(ctx, parent, size); ctx.Err() != nil {
			return nil, ctx.Err()
		} else if err != nil {
			older = nil // a tree that came as a file system; this one gets places of its own
		}
	}
	return ext4.Build(f.nodes, f.bytes, opt, older)
}
