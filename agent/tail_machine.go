package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"carte/lab"
	"carte/lab/ext4"
)

// mountMachine mounts the machine image of a disk with a tail, through a loop device, so that the partition table need not
// know of it. node is the disk's device, or a plain file; that the agent has it open for itself is no hindrance. Where the
// file system is not the one that the tail was made with, or the kernel cannot use it, it is made anew, and said so.
//
// back unmounts it and gives the loop device back; everything is on the medium then. After an error it can be called again.
func mountMachine(node string, t lab.DiskTail, id lab.DiskID, say func(format string, args ...any)) (dir string, back func() error, err error) {
	f, err := os.OpenFile(node, os.O_RDWR, 0)
	if err != nil {
		return "", nil, fmt.Errorf("machine image: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("machine image at the end of %s: %w", node, errors.Join(err, f.Close()))
		}
	}()
	d := &device{file: f, block: pageSize}
	if d.size, err = f.Seek(0, io.SeekEnd); err != nil {
		return "", nil, err
	}
	if t.None() || t.End() > d.size {
		return "", nil, fmt.Errorf("%d bytes at byte %d of %d: %w", t.Bytes, t.Offset, d.size, lab.ErrInvalid)
	}
	why, err := machineFault(d, t, id)
	if err != nil {
		return "", nil, err
	}
	var m *mounted
	if why == "" {
		m, err = mountAt(f, t)
		if err != nil && slices.ContainsFunc(unusable, func(e error) bool { return errors.Is(err, e) }) {
			why = err.Error()
		} else if err != nil {
			return "", nil, err
		}
	}
	if why != "" {
		say("the machine image at the end of %s is made anew, and what was in it is lost: %s", node, why)
		if err := errors.Join(makeMachine(d, t, id), d.Sync()); err != nil {
			return "", nil, err
		}
		if m, err = mountAt(f, t); err != nil {
			return "", nil, err
		}
	}
	return m.dir, func() error { return m.back(d, t, id, say) }, nil
}

// machineFault says what speaks against mounting the machine image as it is.
func machineFault(d Disk, t lab.DiskTail, id lab.DiskID) (string, error) {
	sb := make([]byte, 1024)
	if _, err := d.ReadAt(sb, t.Offset+1024); err != nil {
		return "", err
	}
	return ext4.Sound(sb, machineOptions(t, id)), nil
}

// What a file system can be in spite of being mounted.
var (
	errReadOnly = errors.New("the kernel would not write to it")
	errGutted   = errors.New("its lost+found is not there")
)

// unusable is what the kernel says of a file system that it cannot use. Other errors say nothing about it.
var unusable = []error{unix.EINVAL, unix.EUCLEAN, unix.EBADMSG, unix.EIO, unix.EROFS, errReadOnly, errGutted}

// mounted is a file system in a part of a disk.
type mounted struct {
	disk *os.File
	loop *os.File
	dir  string
}

func mountAt(disk *os.File, t lab.DiskTail) (_ *mounted, err error) {
	off, n := t.Machine()
	loop, err := loopDevice(disk, off, n)
	if err != nil {
		return nil, err
	}
	m := &mounted{disk: disk, loop: loop}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.detach())
		}
	}()
	if m.dir, err = os.MkdirTemp("/run", "carte-machine-"); err != nil {
		return nil, err
	}
	if err := unix.Mount(loop.Name(), m.dir, "ext4", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOATIME, "errors=remount-ro"); err != nil {
		return nil, errors.Join(fmt.Errorf("mount %s: %w", loop.Name(), err), os.Remove(m.dir))
	}
	if err := m.usable(); err != nil {
		return nil, errors.Join(err, unix.Unmount(m.dir, 0), os.Remove(m.dir))
	}
	return m, nil
}

// usable looks at what has just been mounted, and writes a file. Damage that the kernel has not found yet shows here, or
// when it is used.
func (m *mounted) usable() error {
	names, err := os.ReadDir(m.dir)
	if err != nil {
		return err
	}
	// To Linux 7.1 a directory of zeros is an empty one; to 6.x it is an error.
	if !slices.ContainsFunc(names, func(e os.DirEntry) bool { return e.Name() == "lost+found" && e.IsDir() }) {
		return errGutted
	}
	try := filepath.Join(m.dir, ".carte-try")
	if err := os.WriteFile(try, nil, 0o600); err != nil {
		return err
	}
	if err := os.Remove(try); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(m.dir, &st); err != nil {
		return fmt.Errorf("look at %s: %w", m.dir, err)
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		return errReadOnly
	}
	return nil
}

// back unmounts, and says what the kernel noted about the file system.
func (m *mounted) back(d Disk, t lab.DiskTail, id lab.DiskID, say func(format string, args ...any)) error {
	if m.dir != "" {
		if err := unix.Unmount(m.dir, 0); err != nil {
			return fmt.Errorf("give back the machine image at %s: %w", m.dir, err)
		}
		if err := os.Remove(m.dir); err != nil {
			return err
		}
		m.dir = ""
	}
	if m.loop == nil {
		return nil
	}
	if err := m.detach(); err != nil {
		return err
	}
	m.loop = nil
	why, err := machineFault(d, t, id)
	if why != "" {
		say("the machine image at the end of %s will be made anew the next time: %s", m.disk.Name(), why)
	}
	return errors.Join(err, m.disk.Close())
}

// detach takes the loop device off the disk.
func (m *mounted) detach() error {
	_, err := unix.IoctlRetInt(int(m.loop.Fd()), unix.LOOP_CLR_FD)
	if errors.Is(err, unix.ENXIO) { // it is off already
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("detach %s: %w", m.loop.Name(), err)
	}
	return errors.Join(err, m.loop.Close())
}

// loopDevice shows n bytes of a disk from off on as a block device. It goes away by itself when nobody has it open or
// mounted. The caller closes it.
func loopDevice(disk *os.File, off, n int64) (*os.File, error) {
	config := unix.LoopConfig{Fd: uint32(disk.Fd())}
	config.Info.Offset, config.Info.Sizelimit, config.Info.Flags = uint64(off), uint64(n), unix.LO_FLAGS_AUTOCLEAR
	return loopFor(disk.Name(), config)
}

// loopFor makes a free loop device what config says; path is only shown.
func loopFor(path string, config unix.LoopConfig) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("loop devices: %w", err)
	}
	defer control.Close()
	copy(config.Info.File_name[:len(config.Info.File_name)-1], path)
	for range 64 {
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find a free loop device: %w", err)
		}
		loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", number), os.O_RDWR, 0)
		if err != nil {
			return nil, fmt.Errorf("loop devices: %w", err)
		}
		if err = unix.IoctlLoopConfigure(int(loop.Fd()), &config); err == nil {
			return loop, nil
		}
		if err = errors.Join(err, loop.Close()); !errors.Is(err, unix.EBUSY) { // somebody else was faster
			return nil, fmt.Errorf("make %s of %d bytes at byte %d of %s: %w", loop.Name(), config.Info.Sizelimit, config.Info.Offset, path, err)
		}
	}
	return nil, fmt.Errorf("every free loop device was taken by somebody else: %w", lab.ErrBusy)
}
