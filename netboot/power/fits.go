package power

import (
	"errors"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"

	"carte/lab"
)

// maxDisk is the largest disk of a virtual machine. It takes room only where something was written, but the file systems
// that hold it end somewhere (ext4 with its usual blocks at 16 TiB, XFS far beyond).
const maxDisk = 64 << 40

// Fits says why this computer cannot run a virtual machine, as far as that can be told before it starts: lab.ErrInvalid.
func Fits(v lab.Virtual) error {
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err != nil {
		return fmt.Errorf("memory of this computer: %w", err)
	}
	if has := int64(info.Totalram) * int64(info.Unit); v.MemoryBytes > has {
		return fmt.Errorf("%s of memory, and this computer has %s: %w", lab.Bytes(v.MemoryBytes), lab.Bytes(has), lab.ErrInvalid)
	}
	if v.DiskBytes > maxDisk {
		return fmt.Errorf("a disk of %s, and files end at %s: %w", lab.Bytes(v.DiskBytes), lab.Bytes(maxDisk), lab.ErrInvalid)
	}
	if v.Wire == "" || v.Wire == "user" {
		return nil
	}
	return tap(v.Wire)
}

// tap says what is wrong with the interface that a machine's card is to be plugged into.
func tap(name string) error {
	if _, err := net.InterfaceByName(name); err != nil {
		return fmt.Errorf("the wire %s, and there is no such network interface; ip tuntap add %s mode tap makes one: %w", name, name, lab.ErrInvalid)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("network interface %s: %w", name, err)
	}
	defer unix.Close(fd)
	// A tap always tells its driver; another interface may have none.
	info, err := unix.IoctlGetEthtoolDrvinfo(fd, name)
	driver := "another sort"
	if err == nil {
		driver = unix.ByteSliceToString(info.Driver[:])
	}
	if driver != "tun" && (err == nil || errors.Is(err, unix.EOPNOTSUPP)) {
		return fmt.Errorf("the wire %s, which is not a tap interface but one of %s; ip tuntap add NAME mode tap makes one: %w", name, driver, lab.ErrInvalid)
	}
	return nil
}
