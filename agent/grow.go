package agent

import (
	"context"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"carte/lab"
	"carte/lab/layout"
)

// resizeFS is ext4's own call to grow a file system that is mounted, _IOW('f', 16, __u64); see the kernel's
// Documentation/filesystems/ext4.
const resizeFS = 0x40086610

// growFS lets the ext4 in a partition take all of the partition's room, and returns its size before and after, in bytes. node
// is the disk's device, or a plain file. The kernel does it: it knows its file system best, and a power cut in the middle
// leaves either size. lab.ErrInvalid: there is no ext4.
func growFS(node string, p layout.Partition) (was, is int64, err error) {
	disk, err := os.OpenFile(node, os.O_RDWR, 0)
	if err != nil {
		return 0, 0, err
	}
	defer disk.Close()
	loop, err := loopDevice(disk, p.Off, p.Bytes)
	if err != nil {
		return 0, 0, err
	}
	defer loop.Close() // which takes it off the disk
	dir, err := os.MkdirTemp("/run", "carte-grow-")
	if err != nil {
		return 0, 0, err
	}
	defer os.Remove(dir)
	if err := unix.Mount(loop.Name(), dir, "ext4", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOATIME, ""); err != nil {
		return 0, 0, fmt.Errorf("partition %d does not mount as ext4 (%w), and carte grows nothing else: %w", p.Number, err, lab.ErrInvalid)
	}
	was, is, err = growMounted(dir, p.Bytes)
	if e := unix.Unmount(dir, 0); e != nil && err == nil {
		err = fmt.Errorf("unmount %s: %w", dir, e)
	}
	return was, is, err
}

func growMounted(dir string, room int64) (was, is int64, err error) {
	d, err := os.Open(dir)
	if err != nil {
		return 0, 0, err
	}
	defer d.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(d.Fd()), &st); err != nil {
		return 0, 0, err
	}
	was = int64(st.Blocks) * st.Bsize
	blocks := uint64(room / st.Bsize)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, d.Fd(), resizeFS, uintptr(unsafe.Pointer(&blocks))); e != 0 {
		return was, was, fmt.Errorf("the kernel does not grow it to %s: %w", lab.Bytes(room), e)
	}
	if err := unix.Fstatfs(int(d.Fd()), &st); err != nil {
		return was, 0, err
	}
	return was, int64(st.Blocks) * st.Bsize, nil
}

// settle gives the last partition's file system its new room, on a disk that is proven and closed.
func (w *work) settle(ctx context.Context) error {
	if w.Node == nil || w.grown.Bytes == 0 {
		return nil
	}
	node, err := w.Node(w.orders.Disk)
	if err != nil {
		return err
	}
	if p := w.grown; p.Bytes > 0 {
		was, is, err := growFS(node, p)
		if err != nil {
			return fmt.Errorf("grow the file system of partition %d of disk %s: %w", p.Number, w.orders.Disk, err)
		}
		w.say("the file system of partition %d has grown from %s to %s", p.Number, lab.Bytes(was), lab.Bytes(is))
	}
	return context.Cause(ctx)
}
