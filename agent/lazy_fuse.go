package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// lazyFile shows a lazy layer as a file that can only be read: a FUSE file system whose root is that file, mounted over a
// plain one.
type lazyFile struct {
	fuse.RawFileSystem
	*lazy
	ctx context.Context // of the server; a FUSE request has none of its own
}

// lazyRead is the most bytes that one FUSE request reads.
const lazyRead = 1 << 20

// serve answers whoever reads the file at path, which it makes where there is none, and calls ready when it can. It
// returns nil when the file was unmounted and nobody has it open any more; with ctx's end it cuts readers off.
func (l *lazy) serve(ctx context.Context, path string, ready func(context.Context) error) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return fmt.Errorf("lazy layer: %w", err)
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	server, err := fuse.NewServer(&lazyFile{fuse.NewDefaultRawFileSystem(), l, ctx}, path, &fuse.MountOptions{
		DirectMountStrict: true, // no program helps: there is none
		FsName:            "carte",
		Name:              "carte",
		MaxWrite:          lazyRead,
		MaxBackground:     lazySlots,
		DisableXAttrs:     true,
		Logger:            log.New(io.Discard, "", 0),
	})
	if err != nil {
		return &unserved{fmt.Errorf("FUSE, through which it is read, cannot be mounted at %s: %w", path, err)}
	}
	err = group{
		func(context.Context) error {
			server.Serve()
			return errDone
		},
		func(gone context.Context) error {
			if err := ready(gone); err != nil {
				end(err)
				return errors.Join(err, unix.Unmount(path, unix.MNT_FORCE|unix.MNT_DETACH))
			}
			<-gone.Done()
			if cause := context.Cause(gone); cause != errDone {
				end(cause) // readers are let go first: the kernel waits for them
				return errors.Join(cause, unix.Unmount(path, unix.MNT_FORCE|unix.MNT_DETACH))
			}
			return nil
		},
	}.Run(ctx)
	return err
}

func (f *lazyFile) String() string { return "carte" }

// unchanging is how long the kernel may remember what it was told.
const unchanging = 24 * time.Hour

func (f *lazyFile) GetAttr(_ <-chan struct{}, _ *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.Ino, out.Mode, out.Nlink = fuse.FUSE_ROOT_ID, syscall.S_IFREG|0o400, 1
	out.Size = uint64(f.size())
	out.Blksize = 4096
	out.Blocks = (out.Size + 511) / 512
	out.SetTimeout(unchanging)
	return fuse.OK
}

// Open lets the file be read, past the kernel's cache: what is mounted over it has a cache of its own.
func (f *lazyFile) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if in.Flags&syscall.O_ACCMODE != syscall.O_RDONLY {
		return fuse.EROFS
	}
	out.OpenFlags |= fuse.FOPEN_DIRECT_IO
	return fuse.OK
}

func (f *lazyFile) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	n, err := f.read(f.ctx, buf[:min(len(buf), int(in.Size))], int64(in.Offset))
	if err != nil && err != io.EOF {
		return nil, fuse.Status(syscall.ENOTCONN) // only when the server ends
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}
