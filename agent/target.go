package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
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
	plain     bool  // a file
	fresh     bool  // that did not exist
	was       int64 // a file's length before
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
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w; make its folder first", err, lab.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	t := &target{device: &device{file: f, block: 512}, path: path, plain: true, fresh: flags != 0}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%s is being flashed or captured by another carte: %w", path, lab.ErrBusy), f.Close())
	}
	if dev := here.attached(f); dev != "" {
		return nil, errors.Join(fmt.Errorf("%s is attached to %s, and may be mounted through it; nothing was written; losetup --detach %s: %w", path, dev, dev, lab.ErrBusy), f.Close())
	}
	st, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	t.size, t.was = st.Size(), st.Size()
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

// discard takes back what was done to a file for nothing, and closes it.
func (t *target) discard() error {
	if t.fresh {
		return errors.Join(t.Close(), os.Remove(t.path))
	}
	if t.plain && t.size > t.was {
		return errors.Join(t.file.Truncate(t.was), t.Close())
	}
	return t.Close()
}

// guard refuses to overwrite what nobody has confirmed, as far as a few looks tell. A nil vouch: all may go. own is the
// version's manifest, load has those of others.
func (t *target) guard(ctx context.Context, o lab.Flash, m mark, own chunk.Manifest, load func(lab.Version) (chunk.Manifest, error)) (*vouch, error) {
	if o.Confirm != "" {
		if !samePath(o.Confirm, o.To) {
			return nil, fmt.Errorf("%q was confirmed, and not what would be overwritten; nothing was written: --confirm %s: %w", o.Confirm, o.To, lab.ErrConfirm)
		}
		return nil, nil
	}
	if m.there && m.Asked {
		return nil, nil
	}
	v := &vouch{target: t, to: o.To, root: o.Version.Root, versions: []chunk.Manifest{own}, more: slices.Clone(o.Known), ids: len(own.IDs), load: load}
	if m.there {
		v.mayTear = tornMost
		return v, nil
	}
	if t.removable {
		return nil, fmt.Errorf("%s is removable; to overwrite it, repeat its path: --confirm %s: %w", o.To, o.To, lab.ErrConfirm)
	}
	foreign, err := v.foreign(ctx)
	if err != nil {
		return nil, err
	}
	if foreign != "" {
		return nil, fmt.Errorf("%s %s; to overwrite it, repeat its path: --confirm %s: %w", o.To, foreign, o.To, lab.ErrConfirm)
	}
	return v, nil
}

// samePath says whether two paths are written differently at most.
func samePath(a, b string) bool {
	x, err := filepath.Abs(a)
	if err != nil {
		return a == b
	}
	y, err := filepath.Abs(b)
	return err == nil && x == y
}

// looks is how many places are looked at to tell what a target holds.
const looks = 64

// foreign says, after a few looks, what a target holds that no flash has left there; "" when none was seen. A GPT
// may have been fitted to the disk, and is looked at later.
func (v *vouch) foreign(ctx context.Context) (string, error) {
	m := v.versions[0]
	buf := aligned(chunk.Size)
	for _, off := range v.places(0, min(m.Size, v.size)) {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		i := int(off / chunk.Size)
		b := buf[:min(int64(m.Len(i)), v.size-off)]
		if _, err := v.ReadAt(b, off); err != nil {
			return "", fmt.Errorf("read %s at byte %d: %w", v.path, off, err)
		}
		if chunk.IsZero(b) || m.IDs[i] == chunk.Free || i == 0 && gptAt(b, v.block) {
			continue
		}
		if len(b) < m.Len(i) { // the file ends here, and zeros will follow
			b = buf[:m.Len(i)]
			clear(b[v.size-off:])
		}
		if ok, err := v.known(i, b); err != nil || ok || v.size-off <= 2*chunk.Size { // a table may lie there
			if err != nil {
				return "", err
			}
			continue
		}
		return "holds " + cmp.Or(contents(v, v.size), "data of an unknown kind"), nil
	}
	return "", nil
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
