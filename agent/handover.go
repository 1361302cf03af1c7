package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"carte/lab"
)

// Where a tree is put together. All lies in the initramfs, and out of reach once the user's system runs.
const (
	baseAt  = "/carte/base"  // the partition, never written
	upperAt = "/carte/upper" // a file system in memory for what the user's system changes
	rootAt  = "/newroot"     // both, one over the other
)

// inits is what is started, the first that the tree has: the kernel's own list, and /init before the rest of it.
var inits = []string{"/sbin/init", "/init", "/etc/init", "/bin/init", "/bin/sh"}

// prepare does what can be done before the server is told, so that what fails is still an attempt that failed: a tree is
// mounted and looked into.
func (p *pid1) prepare(ctx context.Context, o lab.Orders) error {
	switch o.Start {
	case lab.StartDisk:
		return nil
	case lab.StartPivot:
		return prepareTree(ctx, o)
	}
	return fmt.Errorf("start %q: this agent knows disk and pivot: %w", o.Start, lab.ErrInvalid)
}

// handover starts the user's system. The server has agreed and takes no more reports, so an error goes to the console,
// in the words that carte listens for there. A system on a disk is the firmware's to start: it asks the server, which
// sends it to the disk.
func (p *pid1) handover(_ context.Context, o lab.Orders) error {
	err := errors.New("the machine did not restart")
	if o.Do == lab.DoBoot && o.Start == lab.StartPivot {
		err = pivot(o)
	} else if e := restart(); e != nil {
		err = fmt.Errorf("restart the machine: %w", e)
	}
	io.WriteString(p.console, "::carte fail the agent could not start the system: "+err.Error()+"\n")
	return err
}

// prepareTree mounts the tree read-only, with a layer in memory over it, and finds its init.
func prepareTree(ctx context.Context, o lab.Orders) error {
	d, err := here.find(o.Disk)
	if err != nil {
		return err
	}
	if err := rereadTable(ctx, here.node(d)); err != nil {
		return fmt.Errorf("disk %s: %w", o.Disk, err)
	}
	part, err := here.partition(d.name, o.Writes[0])
	if err != nil {
		return fmt.Errorf("disk %s: %w", o.Disk, err)
	}
	for _, dir := range []string{baseAt, upperAt, rootAt} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	// noload: a journal that is replayed would write to what was just proven.
	if err := unix.Mount(part, baseAt, "ext4", unix.MS_RDONLY, "noload"); err != nil {
		return fmt.Errorf("%s is not a tree, its bytes do not mount as ext4 (%s: %w): %w", o.Writes[0].Ref, part, err, lab.ErrInvalid)
	}
	if _, err := findInit(baseAt); err != nil {
		return errors.Join(fmt.Errorf("%s: %w", o.Writes[0].Ref, err), unix.Unmount(baseAt, 0))
	}
	if err := unix.Mount("tmpfs", upperAt, "tmpfs", 0, "size=50%,mode=0755"); err != nil {
		return fmt.Errorf("mount %s: %w", upperAt, err)
	}
	for _, dir := range []string{"/upper", "/work"} {
		if err := os.Mkdir(upperAt+dir, 0o755); err != nil {
			return err
		}
	}
	layers := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", baseAt, upperAt, upperAt)
	if err := unix.Mount("overlay", rootAt, "overlay", 0, layers); err != nil {
		return fmt.Errorf("mount %s over %s: %w", upperAt, baseAt, err)
	}
	return nil
}

// rereadTable lets the kernel see the partitions that the flash has made. Whoever looked at the disk a moment ago may
// still hold it.
func rereadTable(ctx context.Context, dev string) error {
	f, err := os.Open(dev)
	if err != nil {
		return err
	}
	defer f.Close()
	for try := 1; ; try++ {
		_, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKRRPART, 0)
		switch {
		case e == 0:
			return nil
		case e != unix.EBUSY || try == 50:
			return fmt.Errorf("read its partition table again: %w", e)
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// partition finds the partition that an image was written to, by its place. It returns the path of its device.
func (h host) partition(disk string, w lab.Write) (string, error) {
	entries, err := os.ReadDir(filepath.Join(h.sys, "block", disk))
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), disk) {
			continue
		}
		start, err1 := strconv.ParseInt(h.line("block", disk, e.Name(), "start"), 10, 64) // in 512 bytes, as size
		size, err2 := strconv.ParseInt(h.line("block", disk, e.Name(), "size"), 10, 64)
		if err1 == nil && err2 == nil && start*512 == w.Offset && size*512 >= w.Bytes {
			return filepath.Join(h.dev, e.Name()), nil
		}
	}
	return "", fmt.Errorf("the kernel sees no partition at byte %d: %w", w.Offset, lab.ErrNotFound)
}

// findInit returns the first of inits that is a program in the tree at root. Links lead where they would lead if root
// were /.
func findInit(root string) (string, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(dir)
	for _, path := range inits {
		fd, err := unix.Openat2(dir, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
		if err != nil {
			continue
		}
		var st unix.Stat_t
		err = unix.Fstat(fd, &st)
		unix.Close(fd)
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("it has none of %s, so there is nothing to start: %w", strings.Join(inits, ", "), lab.ErrInvalid)
}

// pivot makes the prepared tree the root and becomes its init. It returns only with an error.
func pivot(o lab.Orders) error {
	for _, m := range []string{"/proc", "/sys", "/run", "/dev"} {
		if err := os.MkdirAll(rootAt+m, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m, rootAt+m, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", m, err)
		}
	}
	path, err := findInit(rootAt)
	if err != nil {
		return err
	}
	os.Remove("/init") // ours: 10 MB of memory; where it is not a file there is nothing to gain
	if err := unix.Chdir(rootAt); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	if err := ownConsole(); err != nil {
		return err
	}
	argv, env := initArguments(o.Cmdline)
	argv = append([]string{path}, argv...)
	env = append([]string{"HOME=/", "TERM=linux", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, env...)
	return fmt.Errorf("%s: %w", path, unix.Exec(path, argv, env))
}

// ownConsole gives the user's init the kernel's console as its input, output and error.
func ownConsole() error {
	fd, err := unix.Open("/dev/console", unix.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return fmt.Errorf("open /dev/console: %w", err)
	}
	for std := range 3 {
		if err := unix.Dup2(fd, std); err != nil {
			return fmt.Errorf("open /dev/console as %d: %w", std, err)
		}
	}
	if fd > 2 {
		return unix.Close(fd)
	}
	return nil
}
