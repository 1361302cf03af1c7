package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"carte/lab/chunk"
)

// fused skips where the kernel lets this process mount no FUSE.
func fused(t *testing.T, programs ...string) {
	t.Helper()
	loops(t, programs...)
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("a lazy layer needs FUSE: %v", err)
	}
	f.Close()
}

// openQuietly opens a file without Go's poller, which would ask the file system that this process serves.
func openQuietly(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

var errEnough = errors.New("enough")

// A file is read right while its bytes arrive; it cannot be written to; its server ends when told.
func TestLazyFile(t *testing.T) {
	fused(t)
	image := joined(noise(1, 5*c), make([]byte, 3*c), noise(2, 2*c+777))
	l, s, path := newLazy(t, image, noise(3, len(image)))
	at := filepath.Join(t.TempDir(), "file")
	err := l.serve(t.Context(), at, func(context.Context) error {
		if _, err := unix.Open(at, unix.O_RDWR|unix.O_CLOEXEC, 0); err != unix.EROFS {
			t.Errorf("opened for writing: %v", err)
		}
		f, err := openQuietly(at)
		if err != nil {
			return err
		}
		defer f.Close()
		b, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<40))
		if err != nil || !bytes.Equal(b, image) {
			t.Errorf("read %d bytes, right: %v, %v", len(b), bytes.Equal(b, image), err)
		}
		return errEnough
	})
	if !errors.Is(err, errEnough) {
		t.Fatal(err)
	}
	if !bytes.Equal(onDisk(t, path, len(image)), image) || s.most() != 1 {
		t.Errorf("the disk is not the image, or a chunk was asked for %d times", s.most())
	}
}

// A file system is mounted before a byte of it is there, its files read right, and then it is on the disk, as it was made.
func TestLazyMount(t *testing.T) {
	fused(t, "mke2fs", "e2fsck")
	image, files := manyFiles(t)
	l, s, path := newLazy(t, image, make([]byte, len(image)))
	l.lull.idle = 20 * time.Millisecond
	d := &lazyDevice{lazy: l, path: filepath.Join(t.TempDir(), "file")}
	dir := t.TempDir()
	nodes := make(chan string, 1)
	done := make(chan struct{})
	err := group{
		func(ctx context.Context) error {
			return d.run(ctx, func(node string) { nodes <- node }, func(ctx context.Context) error {
				select {
				case <-done:
					return errEnough
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			})
		},
		func(ctx context.Context) error {
			var node string
			select {
			case node = <-nodes:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			if err := unix.Mount(node, dir, "ext4", unix.MS_RDONLY, "noload"); err != nil {
				return err
			}
			defer close(done)
			defer func() {
				if err := unix.Unmount(dir, 0); err != nil {
					t.Error(err)
				}
			}()
			t.Logf("mounted with %d of %d bytes fetched", l.count.arrived.Load(), len(image))
			for name, want := range files {
				f, err := openQuietly(filepath.Join(dir, name))
				if err != nil {
					return err
				}
				h := sha256.New()
				_, err = io.Copy(h, f)
				f.Close()
				if err != nil || !bytes.Equal(h.Sum(nil), want) {
					t.Errorf("%s is not what it was: %v", name, err)
				}
			}
			return nil
		},
	}.Run(t.Context())
	if !errors.Is(err, errEnough) {
		t.Fatal(err)
	}
	got := onDisk(t, path, len(image))
	if !bytes.Equal(got, image) || s.most() > 1 {
		t.Errorf("the disk is not the image, or a chunk was asked for %d times", s.most())
	}
	fs := filepath.Join(t.TempDir(), "fs")
	if err := os.WriteFile(fs, got, 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "e2fsck", "-f", "-n", fs)
}

// manyFiles is an ext4 of 24 MiB, and the sums of its files.
func manyFiles(t *testing.T) (image []byte, sums map[string][]byte) {
	t.Helper()
	dir := t.TempDir()
	src, fs := filepath.Join(dir, "src"), filepath.Join(dir, "fs")
	if err := os.MkdirAll(src, 0o755); err != nil {
		t.Fatal(err)
	}
	sums = map[string][]byte{}
	for i := range 30 {
		name, b := string(rune('a'+i%26))+string(rune('0'+i/26)), noise(uint64(i), 1000+i*19_000)
		sum := sha256.Sum256(b)
		sums[name] = sum[:]
		if err := os.WriteFile(filepath.Join(src, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tool(t, "truncate", "-s", "24M", fs)
	tool(t, "mke2fs", "-q", "-b", "4096", "-t", "ext4", "-d", src, fs)
	image, err := os.ReadFile(fs)
	if err != nil {
		t.Fatal(err)
	}
	if chunk.IsZero(image) {
		t.Fatal("mke2fs made nothing")
	}
	return image, sums
}
