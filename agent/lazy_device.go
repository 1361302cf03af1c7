package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A lazyDevice is a lazy layer as a block device that can be mounted, read-only:
//
//	a file (lazyFile) <- loop device <- device mapper <- what is mounted
//
// When the layer is whole, the device mapper leads to the partition itself, and nothing of carte's is between the system
// and its disk any more. Where the kernel has no device mapper, the loop device is what is mounted, and reads go through
// this process to the end.
type lazyDevice struct {
	*lazy
	path   string   // of the file
	plain  *os.File // the partition, to lead to; nil: none
	loop   *os.File
	mapped *mapped // nil: the kernel has none
	glance bool    // nothing is loaded
}

// run serves the layer: it calls ready with the path of the device, loads what is missing, calls whole when all is on the
// disk and proven, and returns when nobody needs it any more: with a device mapper soon after, without one never before
// ctx ends.
func (d *lazyDevice) run(ctx context.Context, ready func(node string), whole func(ctx context.Context) error) error {
	return d.serve(ctx, d.path, func(ctx context.Context) error {
		node, err := d.attach()
		if err != nil {
			return &unserved{err}
		}
		ready(node)
		if d.glance {
			<-ctx.Done()
			return errors.Join(context.Cause(ctx), d.detach())
		}
		began := time.Now()
		if err := d.load(ctx); err != nil {
			return errors.Join(err, d.detach())
		}
		straight, err := d.straighten()
		if err != nil {
			d.say("%s is whole, and goes on being read through carte: %v", d.part.Ref, err)
		}
		d.say("%s is whole after %.1f s: %d of %d reads had to wait", d.part.Ref, time.Since(began).Seconds(), d.count.waits.Load(), d.count.reads.Load())
		if err := whole(ctx); err != nil {
			return errors.Join(err, d.detach())
		}
		if straight { // the mapped device stays
			d.mapped = nil
			return errors.Join(d.detach(), unix.Unmount(d.path, unix.MNT_DETACH), os.Remove(d.path))
		}
		<-ctx.Done()
		return errors.Join(context.Cause(ctx), d.detach())
	})
}

// attach makes the device. The file is opened past Go's poller, which would ask the file system that this process serves.
func (d *lazyDevice) attach() (node string, err error) {
	fd, err := unix.Open(d.path, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open %s: %w", d.path, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil { // a loop device of Linux 6.1 has the size that the kernel remembers: none, unless somebody asked
		return "", fmt.Errorf("the size of %s: %w", d.path, err)
	}
	config := unix.LoopConfig{Fd: uint32(fd), Size: uint32(d.disk.Block())}
	config.Info.Sizelimit = uint64(d.size())
	// Direct: reads run side by side, and one that waits for the wire holds up no other.
	config.Info.Flags = unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR | unix.LO_FLAGS_DIRECT_IO
	if d.loop, err = loopFor(d.path, config); err != nil {
		return "", err
	}
	node = d.loop.Name()
	if d.plain == nil {
		return node, nil
	}
	d.mapped, err = newMapped("carte-"+filepath.Base(d.path), d.loop, d.size()&^511)
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ENODEV) {
			d.say("%v", err)
		}
		d.mapped = nil
		return node, nil
	}
	return d.mapped.node, nil
}

// straighten leads the device to the partition, whose bytes are the layer's now.
func (d *lazyDevice) straighten() (bool, error) {
	if d.mapped == nil {
		return false, nil
	}
	if err := d.mapped.lead(d.plain); err != nil {
		return false, err
	}
	return true, nil
}

// detach gives the devices back: the mapped one, unless it is still mounted, and the loop device, which goes when nobody has
// it open.
func (d *lazyDevice) detach() error {
	if d.loop == nil {
		return nil
	}
	var err error
	if d.mapped != nil {
		err = d.mapped.remove()
	}
	err = errors.Join(err, d.loop.Close())
	d.loop = nil
	return err
}
