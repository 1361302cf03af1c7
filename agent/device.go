package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"carte/lab"
)

// A Disk is what a flash reads and writes: a block device, or in tests a plain file. All methods but Close may be called
// from any number of goroutines; places and lengths are in bytes and may be odd, if only at the end of an image.
type Disk interface {
	io.ReaderAt // reads all of the slice or returns an error
	io.WriterAt
	Size() int64             // never changes while open
	Block() int              // the size of a block, a power of two
	Zero(off, n int64) error // afterwards those bytes read as zeros
	Sync() error             // returns when all that was written is on the medium
	Forget() error           // what is read from now on comes from the medium, not from memory
	Close() error
}

// device is a Disk over a file descriptor.
type device struct {
	file   *os.File
	direct *os.File // a second descriptor that goes past the kernel's cache; nil for files
	again  *os.File // of a file, from Forget on: a descriptor that reads past the kernel's cache; nil where that cannot be had
	size   int64
	block  int
	dirty  atomic.Int64 // bytes written to a file since its writing to the medium was last begun
}

// OpenFile opens a plain file as a disk of the file's size, with blocks of 512 bytes. It is for tests and for machines
// that are made of files. The caller closes it.
func OpenFile(path string) (Disk, error) { return openFile(path, os.O_RDWR) }

// ReadFile is OpenFile for a disk that cannot be written to.
func ReadFile(path string) (Disk, error) { return openFile(path, os.O_RDONLY) }

func openFile(path string, mode int) (Disk, error) {
	f, err := os.OpenFile(path, mode, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a plain file: %w", path, lab.ErrRefused)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &device{file: f, size: st.Size(), block: 512}, nil
}

// openDevice opens a block device for writing, alone: the kernel refuses when something on it is mounted or otherwise in
// use. number is the device number that sysfs has for the disk that was looked for; a node that leads elsewhere is
// refused.
func openDevice(path, number string) (*device, error) {
	return openDeviceFor(os.O_RDWR, path, number)
}

// openDeviceFor is openDevice for os.O_RDWR, or for os.O_RDONLY.
func openDeviceFor(mode int, path, number string) (_ *device, err error) {
	f, err := os.OpenFile(path, mode|unix.O_EXCL, 0)
	if err != nil {
		return nil, err
	}
	d := &device{file: f}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	if got := fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)); st.Mode&unix.S_IFMT != unix.S_IFBLK || got != number {
		return nil, fmt.Errorf("%s is device %s and should be %s: %w", path, got, number, lab.ErrRefused)
	}
	if d.size, d.block, err = measure(f); err != nil {
		return nil, err
	}
	if d.direct, err = os.OpenFile(path, mode|unix.O_DIRECT, 0); err != nil {
		return nil, err
	}
	return d, nil
}

func (d *device) Size() int64 { return d.size }
func (d *device) Block() int  { return d.block }

// What is this long at least is written directly; shorter pieces are put together by the kernel. The writing of a file to
// its medium is begun whenever so much waits.
const (
	directFrom = 64 << 10
	dirtyMost  = 16 << 20
)

// WriteAt writes to a device directly where place, length and memory allow it: the cache of a whole image helps nobody.
func (d *device) WriteAt(b []byte, off int64) (int, error) {
	if len(b) >= directFrom && d.straight(b, off) {
		return d.direct.WriteAt(b, off)
	}
	n, err := d.file.WriteAt(b, off)
	if err == nil && d.direct == nil && d.dirty.Add(int64(n)) >= dirtyMost {
		d.dirty.Store(0)
		// Only to be done earlier with Sync, which is where an error shows.
		unix.SyncFileRange(int(d.file.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	}
	return n, err
}

// ReadAt reads directly where place, length and memory allow it. Direct reads of a device flush what was written there
// through the cache first, so both ways see the same.
func (d *device) ReadAt(b []byte, off int64) (int, error) {
	if d.straight(b, off) {
		return d.direct.ReadAt(b, off)
	}
	switch {
	case d.again == nil:
	case paged(b, off) && off+int64(len(b)) <= d.size:
		return d.again.ReadAt(b, off)
	default: // the odd end of an image
		if err := unix.Fadvise(int(d.file.Fd()), off&^(cachePage-1), int64(len(b))+cachePage, unix.FADV_DONTNEED); err != nil {
			return 0, err
		}
	}
	return d.file.ReadAt(b, off)
}

// cachePage is what the kernel's cache is made of, in bytes, and what any file system can read directly.
const cachePage = 4096

// paged says whether a file system can read b from the medium itself.
func paged(b []byte, off int64) bool {
	const mask = cachePage - 1
	return len(b) > 0 && (off|int64(len(b)))&mask == 0 && uintptr(unsafe.Pointer(&b[0]))&mask == 0
}

// straight says whether b can go past the kernel's cache.
func (d *device) straight(b []byte, off int64) bool {
	mask := int64(d.block - 1)
	return d.direct != nil && len(b) > 0 && (off|int64(len(b)))&mask == 0 && int64(uintptr(unsafe.Pointer(&b[0])))&mask == 0
}

// Data says where a file may hold something. Of a device nothing is known.
func (d *device) Data(from int64) (start, end int64) {
	if d.direct != nil || from >= d.size {
		return min(from, d.size), d.size
	}
	start, err := unix.Seek(int(d.file.Fd()), from, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return d.size, d.size
	}
	if err == nil {
		end, err = unix.Seek(int(d.file.Fd()), start, unix.SEEK_HOLE)
	}
	if err != nil || end <= from {
		return from, d.size
	}
	return start, end
}

// Zero gives the range back to the disk or file system where that promises zeros, has the device make zeros itself
// otherwise, and writes them where it cannot.
func (d *device) Zero(off, n int64) error {
	if n == 0 {
		return nil
	}
	mask := int64(d.block - 1)
	if whole := n &^ mask; off&mask == 0 && whole > 0 {
		if err := d.zeroBlocks(off, whole); err != nil {
			return err
		}
		off, n = off+whole, n-whole
	}
	return d.writeZeros(off, n)
}

func (d *device) zeroBlocks(off, n int64) error {
	err := unix.Fallocate(int(d.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	if err == nil || errors.Is(err, unix.EIO) || errors.Is(err, unix.ENOSPC) {
		return err
	}
	if d.direct != nil {
		span := [2]uint64{uint64(off), uint64(n)}
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, d.file.Fd(), unix.BLKZEROOUT, uintptr(unsafe.Pointer(&span))); e == 0 {
			return nil
		}
	}
	return d.writeZeros(off, n)
}

func (d *device) writeZeros(off, n int64) error {
	zero := make([]byte, min(n, 1<<20))
	for n > 0 {
		b := zero[:min(n, int64(len(zero)))]
		if _, err := d.file.WriteAt(b, off); err != nil {
			return err
		}
		off, n = off+int64(len(b)), n-int64(len(b))
	}
	return nil
}

func (d *device) Sync() error { return d.file.Sync() }

// Push brings the bytes that were written to the medium, but not what a file system notes about them: that is Sync's.
func (d *device) Push() error {
	if d.direct != nil {
		return d.Sync()
	}
	const all = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	return unix.SyncFileRange(int(d.file.Fd()), 0, 0, all)
}

// Forget drops clean pages, or lets a file be read past them; it is called after Sync, when all pages are clean.
func (d *device) Forget() error {
	if d.direct != nil {
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, d.file.Fd(), unix.BLKFLSBUF, 0); e != 0 {
			return fmt.Errorf("drop its cache: %w", e)
		}
		return nil
	}
	if d.again == nil {
		// Reading a file anew through the cache that was just emptied costs many times what reading past it does.
		if f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", d.file.Fd()), os.O_RDONLY|unix.O_DIRECT, 0); err == nil {
			d.again = f
		}
	}
	if d.again != nil { // the cache may stay: nothing is read from it
		return nil
	}
	return unix.Fadvise(int(d.file.Fd()), 0, 0, unix.FADV_DONTNEED)
}

func (d *device) Close() error {
	err := d.file.Close()
	for _, f := range []*os.File{d.direct, d.again} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}
