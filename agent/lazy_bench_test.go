package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkLazyRead reads a whole layer through a loop device, in pieces of 128 KiB: straight from the disk, where a device
// mapper leads in the end, and through FUSE, where there is none.
func BenchmarkLazyRead(b *testing.B) {
	if f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil || os.Getuid() != 0 {
		b.Skipf("a lazy layer needs root and FUSE: %v", err)
	} else {
		f.Close()
	}
	image := noise(1, 128*c)
	l, _, path := newLazy(b, image, image)
	if err := l.load(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.Run("disk", func(b *testing.B) {
		disk, err := os.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		defer disk.Close()
		loop, err := loopDevice(disk, lazyAt, int64(len(image)))
		if err != nil {
			b.Fatal(err)
		}
		defer loop.Close()
		readAll(b, loop.Name(), len(image))
	})
	b.Run("fuse", func(b *testing.B) {
		d := &lazyDevice{lazy: l, path: filepath.Join(b.TempDir(), "file")}
		err := d.serve(b.Context(), d.path, func(context.Context) error {
			node, err := d.attach()
			if err != nil {
				return err
			}
			readAll(b, node, len(image))
			return errors.Join(errEnough, d.detach())
		})
		if !errors.Is(err, errEnough) {
			b.Fatal(err)
		}
	})
}

// readAll reads a device past the kernel's cache, again and again.
func readAll(b *testing.B, node string, size int) {
	fd, err := unix.Open(node, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Close(fd)
	buf := aligned(128 << 10)
	b.SetBytes(int64(size))
	b.ResetTimer()
	for range b.N {
		for at := 0; at < size; at += len(buf) {
			if n, err := unix.Pread(fd, buf, int64(at)); n != len(buf) || err != nil {
				b.Fatalf("%d bytes at %d: %v", n, at, err)
			}
		}
	}
}
