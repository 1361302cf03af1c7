package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"carte/lab"
	"carte/lab/chunk"
)

// A target is a file or device of this computer that a person named.
type target struct {
	*device
	path      string
	plain     bool // a file
	fresh     bool // that did not exist
	removable bool
}

// openTarget opens what is at path for writing, alone. A file that does not exist is made. Nothing is written yet, and a
// file keeps its length.
func openTarget(path string) (*target, error) {
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		abs, err := filepath.Abs(path)
		if err != nil || strings.HasPrefix(abs, "/dev/") && !strings.HasPrefix(abs, "/dev/shm/") { // a device with a typing error
			return nil, fmt.Errorf("%s: %w; lsblk lists the devices", path, lab.ErrNotFound)
		}
		return openFileTarget(path, os.O_CREATE|os.O_EXCL)
	case err != nil:
		return nil, err
	case st.IsDir():
		return nil, fmt.Errorf("%s is a folder; flashing needs a file or a block device: %w", path, lab.ErrInvalid)
	case st.Mode().IsRegular():
		return openFileTarget(path, 0)
	case st.Mode()&fs.ModeDevice == 0 || st.Mode()&fs.ModeCharDevice != 0:
		return nil, fmt.Errorf("%s is neither a file nor a block device: %w", path, lab.ErrInvalid)
	}
	number := deviceNumber(st)
	if here.line("dev/block", number, "ro") == "1" {
		return nil, fmt.Errorf("%s is write-protected; nothing was written: %w", path, lab.ErrRefused)
	}
	d, err := openDevice(path, number)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("%s is in use: it is mounted, or part of a RAID, a volume group or swap; nothing was written: %w", path, lab.ErrBusy)
	}
	if err != nil {
		return nil, err
	}
	return &target{device: d, path: path, removable: here.isRemovable(number)}, nil
}

// isRemovable asks a disk, or the disk of a partition.
func (h host) isRemovable(number string) bool {
	dir, err := filepath.EvalSymlinks(filepath.Join(h.sys, "dev/block", number))
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if b, readErr := os.ReadFile(filepath.Join(d, "removable")); err == nil && readErr == nil {
			return strings.TrimSpace(string(b)) == "1"
		}
	}
	return false
}

func openFileTarget(path string, flags int) (_ *target, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|flags, 0o644)
	if err != nil {
		return nil, err
	}
	t := &target{device: &device{file: f, block: 512}, path: path, plain: true, fresh: flags != 0}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%s is being flashed or captured by another carte: %w", path, lab.ErrBusy), f.Close())
	}
	st, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	t.size = st.Size()
	return t, nil
}

// deviceNumber is major:minor of a device's node.
func deviceNumber(st fs.FileInfo) string {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		panic("BUG: a device without a number")
	}
	return fmt.Sprintf("%d:%d", unix.Major(sys.Rdev), unix.Minor(sys.Rdev))
}

// fit makes room for an image: a file grows, a device must be large enough.
func (t *target) fit(need int64) error {
	if !t.plain && t.size < need {
		return fmt.Errorf("%s has %d bytes and the image %d: it is %d bytes (%s) too small; nothing was written: %w",
			t.path, t.size, need, need-t.size, lab.Bytes(need-t.size), lab.ErrRefused)
	}
	if !t.plain || t.size >= need {
		return nil
	}
	if err := t.file.Truncate(need); err != nil {
		return fmt.Errorf("extend %s to %d bytes: %w", t.path, need, err)
	}
	t.size = need
	return nil
}

// discard removes a file that was made for nothing.
func (t *target) discard() error {
	if t.fresh {
		return os.Remove(t.path)
	}
	return nil
}

// guard refuses to overwrite what nobody has confirmed. known are the manifests of what an earlier flash may have left.
func (t *target) guard(ctx context.Context, o lab.Flash, known []chunk.Manifest) error {
	if o.Confirm == o.To {
		return nil
	}
	if o.Confirm != "" {
		return fmt.Errorf("%q was confirmed, and not what would be overwritten; nothing was written: --confirm %s: %w", o.Confirm, o.To, lab.ErrConfirm)
	}
	why := ""
	if t.removable {
		why = "is removable"
	} else if foreign, err := t.foreign(ctx, o.Version.Bytes, known); err != nil {
		return err
	} else if foreign != "" {
		why = foreign
	}
	if why == "" {
		return nil
	}
	return fmt.Errorf("%s %s; to overwrite it, repeat its path: --confirm %s: %w", o.To, why, o.To, lab.ErrConfirm)
}

// looks is how many places are looked at to tell what a target holds.
const looks = 64

// foreign says what a target holds that no flash of this image has left there; "" when it is blank or an earlier flash.
// An earlier flash of a file, also one that was interrupted or has been used since, is known by most of what is there. A
// disk must be blank.
func (t *target) foreign(ctx context.Context, size int64, known []chunk.Manifest) (string, error) {
	mine, others := 0, 0
	buf := aligned(chunk.Size)
	for _, off := range t.places(0, min(size, t.size)) {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		i := int(off / chunk.Size)
		b := buf[:min(chunk.Size, t.size-off)]
		if _, err := t.ReadAt(b, off); err != nil {
			return "", fmt.Errorf("read %s at byte %d: %w", t.path, off, err)
		}
		if chunk.IsZero(b) {
			continue
		}
		if holds(known, i, b) {
			mine++
		} else {
			others++
		}
	}
	what := contents(t, t.size)
	switch {
	case !t.plain && (mine+others > 0 || what != ""): // it may have been used since a flash: who knows what is on it now
		return "is a disk that holds " + cmp.Or(what, "data of an unknown kind"), nil
	case others > mine && what == "":
		return "holds data of an unknown kind", nil
	case others > mine:
		return "holds " + what, nil
	}
	if !t.plain || t.size <= size {
		return "", nil
	}
	for _, off := range t.places(size&^(chunk.Size-1)+chunk.Size, t.size) {
		b := buf[:min(chunk.Size, t.size-off)]
		if _, err := t.ReadAt(b, off); err != nil {
			return "", fmt.Errorf("read %s at byte %d: %w", t.path, off, err)
		}
		if !chunk.IsZero(b) {
			return fmt.Sprintf("is larger than the image, and holds something behind it (at byte %d), which stays", off), nil
		}
	}
	return "", nil
}

func holds(known []chunk.Manifest, i int, b []byte) bool {
	id := chunk.Sum(b)
	for _, m := range known {
		if i >= len(m.IDs) {
			continue
		}
		if n := m.Len(i); n == len(b) && m.IDs[i] == id || n < len(b) && m.IDs[i] == chunk.Sum(b[:n]) {
			return true
		}
	}
	return false
}

// places are chunks' places between from and end, evenly spread, that may hold something.
func (t *target) places(from, end int64) (offs []int64) {
	n := (end - from + chunk.Size - 1) / chunk.Size
	last := int64(-1)
	for k := range min(n, looks) {
		off := from + k*n/min(n, looks)*chunk.Size
		start, _ := t.Data(off)
		off = max(off, start&^(chunk.Size-1))
		if off >= end || off <= last {
			continue
		}
		offs, last = append(offs, off), off
	}
	return offs
}

// measure returns the size of a block device and of its blocks.
func measure(f *os.File) (size int64, block int, err error) {
	var n uint64
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKGETSIZE64, uintptr(unsafe.Pointer(&n))); e != 0 {
		return 0, 0, fmt.Errorf("size of %s: %w", f.Name(), e)
	}
	block, err = unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET)
	if err != nil {
		return 0, 0, fmt.Errorf("block size of %s: %w", f.Name(), err)
	}
	return int64(n), block, nil
}
