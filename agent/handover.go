package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"carte/lab"
)

// inits is what is started, the first that the tree has: the kernel's own list, and /init before the rest of it.
var inits = []string{"/sbin/init", "/init", "/etc/init", "/bin/init", "/bin/sh"}

// prepare does what can be done before the server is told, so that what fails is still an attempt that failed: a tree is put
// together and looked into; what replaces this kernel is made, and loaded or sent. undo takes it back, should the server call
// the boot back in the last moment.
func (p *pid1) prepare(ctx context.Context, r Ready) (undo func() error, err error) {
	undo = func() error { return nil }
	switch r.Start {
	case lab.StartDisk, lab.StartLay:
		return undo, nil
	case lab.StartPivot:
		h, end, err := here.withLazy(ctx, lazyTask{Server: r.Server, Pin: r.Pin, Key: r.Key, Orders: r.Orders})
		if err != nil {
			return undo, err
		}
		if p.tree, err = h.compose(ctx, r.Orders); err != nil {
			return undo, errors.Join(err, end())
		}
		p.task = shimTask{Server: r.Server, Pin: r.Pin, Key: r.Key, Orders: r.Orders, Note: r.Note}
		return func() error { return errors.Join(p.tree.undo(), end()) }, nil
	case lab.StartKexec, lab.StartNetboot:
		return p.prepareKernel(ctx, r)
	}
	return undo, fmt.Errorf("start %q: this agent knows disk, pivot, kexec, netboot and lay: %w", r.Start, lab.ErrInvalid)
}

// handover starts the user's system. The server has agreed and takes no more reports but its shim's, as which an error is told, and
// to the console in the words that carte listens for there. A system on a disk, or with a kernel that could not be loaded here, is the
// firmware's to start: it asks the server, which sends it to the disk, or has the kernel.
func (p *pid1) handover(ctx context.Context, o lab.Orders) error {
	err := errors.New("the machine did not restart")
	switch {
	case o.Do == lab.DoBoot && o.Start == lab.StartPivot:
		p.task.Lease = p.net.handOver()
		err = p.tree.become(p.task)
		err = fmt.Errorf("the agent could not start the system: %w", err)
		v := &voice{console: p.console, log: discard}
		if e := unstarted(ctx, p.task, v, err); e != nil {
			v.say("its server was not told: %v", e)
		}
	case o.Do == lab.DoBoot && o.Start == lab.StartKexec && p.loaded:
		err = jump()
		fmt.Fprintf(p.console, "carte: %v; the machine restarts\n", err)
		fallthrough
	default:
		if e := restart(); e != nil {
			err = fmt.Errorf("restart the machine: %w", e)
		}
	}
	io.WriteString(p.console, "::carte fail "+err.Error()+"\n")
	return err
}

// settle returns the disk of the orders, and devices for all that they have on it: first the images', then scratch's where there is
// one. It lets the kernel read the table of a disk that was just flashed, unless it sees what is needed.
func (h host) settle(ctx context.Context, o lab.Orders) (d blockdev, nodes []string, err error) {
	if d, err = h.find(o.Disk); err != nil {
		return d, nil, err
	}
	if nodes, err = h.nodes(d, o); err == nil {
		return d, nodes, nil
	}
	if err = rereadTable(ctx, h.node(d)); err == nil {
		nodes, err = h.nodes(d, o)
	}
	if err != nil {
		err = fmt.Errorf("disk %s: %w", o.Disk, err)
	}
	return d, nodes, err
}

// nodes finds the devices for all that orders have on a disk.
func (h host) nodes(d blockdev, o lab.Orders) (nodes []string, err error) {
	parts, err := h.partitions(d.name)
	if err != nil {
		return nil, err
	}
	all := o.Writes
	if s := o.Compose.Scratch; s.Bytes > 0 {
		all = append(slices.Clone(all), lab.Write{Offset: s.Offset, Bytes: s.Bytes})
	}
	for _, w := range all {
		node, ok := h.lazy[w.Offset]
		if !ok {
			if node, err = partitionFor(parts, w); err != nil {
				return nil, err
			}
		}
		nodes = append(nodes, node)
	}
	return nodes, nil
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

// A blockpart is a partition that the kernel sees.
type blockpart struct {
	off, bytes int64
	node       string // the path of its device
}

// partitions lists those of a disk.
func (h host) partitions(disk string) (all []blockpart, err error) {
	entries, err := os.ReadDir(filepath.Join(h.sys, "block", disk))
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), disk) {
			continue
		}
		start, err1 := strconv.ParseInt(h.line("block", disk, e.Name(), "start"), 10, 64) // in 512 bytes, as size
		size, err2 := strconv.ParseInt(h.line("block", disk, e.Name(), "size"), 10, 64)
		if err1 == nil && err2 == nil {
			all = append(all, blockpart{start * 512, size * 512, filepath.Join(h.dev, e.Name())})
		}
	}
	return all, nil
}

// partitionFor finds the partition that an image was written to, by its place.
func partitionFor(all []blockpart, w lab.Write) (node string, err error) {
	for _, p := range all {
		if p.off == w.Offset && p.bytes >= w.Bytes {
			return p.node, nil
		}
	}
	return "", fmt.Errorf("the kernel sees no partition at byte %d: %w", w.Offset, lab.ErrNotFound)
}

// findInit returns the first of inits that is a program in the tree at root. Links lead where they would lead if root
// were /.
func findInit(root string) (string, error) {
	for _, path := range inits {
		fd, err := openIn(root, path, unix.O_PATH)
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

// become makes the composition the root, starts the shim beside it where its clauses want one, and becomes its init. It returns
// only with an error.
func (c *composition) become(task shimTask) error {
	task.Init = c.init
	for _, b := range c.backs {
		fd, err := unix.Open(b.Upper, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("what is changed in %s: %w", b.Image, err)
		}
		b.Upper = fmt.Sprintf("/proc/self/fd/%d", fd) // out of reach by its name from here on
		task.Backs = append(task.Backs, b)
	}
	if err := switchRoot(); err != nil {
		return err
	}
	if wantsShim(task) {
		if err := spawnShim(task); err != nil {
			return err
		}
	}
	if err := ownConsole(); err != nil {
		return err
	}
	argv, env := initArguments(task.Orders.Cmdline)
	argv = append([]string{c.init}, argv...)
	env = append([]string{"HOME=/", "TERM=linux", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, env...)
	return fmt.Errorf("%s: %w", c.init, unix.Exec(c.init, argv, env))
}

// wantsShim says whether a process of carte lives beside the system: for its clauses, or to keep its address.
func wantsShim(t shimTask) bool { return t.Lease != nil || serves(t.Orders) }

// serves says whether a shim has anything to do for the clauses of its boot.
func serves(o lab.Orders) bool {
	return slices.ContainsFunc([]lab.Clause{lab.Heartbeat, lab.Autostart, lab.Results, lab.Lazy}, o.Compose.Gives)
}

// switchRoot moves the kernel's file systems into the root that was put together, and makes that the root.
func switchRoot() error {
	for _, m := range []string{"/sys", "/run", "/dev", "/proc"} { // makeDir needs /proc
		at, err := makeDir(rootAt, m, 0o755)
		if err != nil {
			return err
		}
		if err := unix.Mount(m, at, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", m, err)
		}
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
	return unix.Chdir("/")
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
