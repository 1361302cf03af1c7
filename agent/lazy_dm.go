package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A mapped device is one of the kernel's device mapper with a single linear target. What it leads to can be exchanged
// while it is mounted.
type mapped struct {
	control *os.File
	name    string
	node    string // the path of its device
	bytes   int64
}

// The kernel's interface: struct dm_ioctl and struct dm_target_spec of linux/dm-ioctl.h, version 4.0.
const (
	dmHead             = 312 // bytes of dm_ioctl
	dmSpec             = 40  // bytes of dm_target_spec
	dmRequest          = 0xC138FD00
	dmCreate           = 3
	dmRemove           = 4
	dmSuspend          = 6
	dmLoad             = 9
	dmReadOnly, dmStop = 1 << 0, 1 << 1 // flags
)

// newMapped makes a device that leads to all of to, which has so many bytes, and cannot be written to. Where the kernel
// has no device mapper the error wraps os.ErrNotExist.
func newMapped(name string, to *os.File, bytes int64) (_ *mapped, err error) {
	m := &mapped{name: name, bytes: bytes}
	if m.control, err = os.OpenFile("/dev/mapper/control", os.O_RDWR, 0); err != nil {
		return nil, fmt.Errorf("device mapper: %w", err)
	}
	dev, err := m.do(dmCreate, dmReadOnly, nil)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("device mapper: make %s: %w", name, err), m.control.Close())
	}
	m.node = fmt.Sprintf("/dev/dm-%d", unix.Minor(dev))
	if err := m.lead(to); err != nil {
		return nil, errors.Join(err, m.remove())
	}
	return m, nil
}

// lead makes the device lead to another one, of the same size. What was read before and what is read after are never
// mixed: the kernel lets what is under way end first.
func (m *mapped) lead(to *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(to.Fd()), &st); err != nil {
		return err
	}
	target := fmt.Sprintf("%d:%d 0", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	if _, err := m.do(dmLoad, dmReadOnly, []byte(target)); err != nil {
		return fmt.Errorf("device mapper: lead %s to %s: %w", m.name, to.Name(), err)
	}
	if _, err := m.do(dmSuspend, dmStop, nil); err != nil {
		return fmt.Errorf("device mapper: suspend %s: %w", m.name, err)
	}
	if _, err := m.do(dmSuspend, 0, nil); err != nil {
		return fmt.Errorf("device mapper: resume %s: %w", m.name, err)
	}
	return nil
}

// remove takes the device away; nobody may have it open.
func (m *mapped) remove() error {
	_, err := m.do(dmRemove, 0, nil)
	if err != nil {
		err = fmt.Errorf("device mapper: remove %s: %w", m.name, err)
	}
	return errors.Join(err, m.control.Close())
}

// do makes one request, with the parameters of one linear target where there are any, and returns the device's number.
func (m *mapped) do(request uintptr, flags uint32, target []byte) (dev uint64, err error) {
	le := binary.LittleEndian
	b := make([]byte, 1024)
	le.PutUint32(b[0:], 4) // the version of the interface, of three numbers
	le.PutUint32(b[12:], uint32(len(b)))
	le.PutUint32(b[16:], dmHead)
	le.PutUint32(b[28:], flags)
	copy(b[48:48+127], m.name)
	if target != nil {
		le.PutUint32(b[20:], 1)
		spec := b[dmHead:]
		le.PutUint64(spec[8:], uint64(m.bytes/512))
		le.PutUint32(spec[20:], uint32(len(b)-dmHead))
		copy(spec[24:], "linear")
		copy(spec[dmSpec:len(spec)-1], target)
	}
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, m.control.Fd(), dmRequest|request, uintptr(unsafe.Pointer(&b[0]))); e != 0 {
		return 0, e
	}
	return le.Uint64(b[40:]), nil
}
