// Package qemu runs a virtual machine as a process: its files, its command line,
// its serial console and its switch.
//
// It refuses to know what the machine is for: no boots, no images, no addresses.
// Which machine is switched when is netboot/power's business; what it boots is
// decided by whoever answers its network card.
package qemu

import (
	"fmt"
	"net"
	"os"
	"strings"

	"carte/lab"
)

// Spec describes one virtual machine. It does not change while the machine runs.
type Spec struct {
	Name string // for people and the process list
	Dir  string // folder of disk.raw and efivars.fd; made when it is not there

	Disk      int64 // bytes of the disk when it is made; 0 is a machine without a disk
	DiskFirst bool  // the disk comes before the network in the boot order: a machine of somebody's own
	Memory    int64 // bytes, rounded up to whole MiB
	CPUs      int   // at least 1
	UEFI      bool  // OVMF instead of SeaBIOS

	MAC    net.HardwareAddr // of the only network card, 6 bytes
	Serial string           // of the disk, at most 20 ASCII characters (virtio's limit)
	UUID   string           // SMBIOS system UUID; empty leaves it to QEMU

	Accel string // "tcg" or "kvm", as Accel found
	Wire  Wire   // what the network card is plugged into; the zero value is QEMU's own network
	ROM   ROM    // what the network card boots with

	// Boot is a URL that the card's ROM is told to boot from by QEMU's own network,
	// at most 127 bytes (the BOOTP file field, which libslirp cuts silently). The
	// host's loopback is 10.0.2.2 there. Empty on any other wire.
	Boot string

	// Kernel, Initrd and Cmdline start a kernel without any firmware boot, for
	// tests of what comes after. Paths; an empty Kernel is a normal boot.
	Kernel, Initrd, Cmdline string
}

// A Wire is what the network card is plugged into. At most one field is set.
type Wire struct {
	// Tap is the name of a tap interface that exists. Opening it needs root, or a
	// tap that belongs to the user.
	Tap string
	// Socket is one end of a SOCK_DGRAM socket pair, one frame a datagram. The
	// caller keeps and closes its own copy; QEMU gets a duplicate.
	Socket *os.File
}

// User reports whether the wire is QEMU's own network: 10.0.2.0/24 with DHCP,
// NAT and the host's loopback at 10.0.2.2, without root.
func (w Wire) User() bool { return w == Wire{} }

// A ROM is the option ROM of the network card, that is, who does the PXE boot.
type ROM string

const (
	// ROMiPXE is the combined BIOS and UEFI ROM that comes with QEMU. It is an
	// iPXE: it takes URLs, so it is the one for QEMU's own network. Under OVMF its
	// driver takes the card over from the firmware's own and boots by itself.
	ROMiPXE ROM = ""
	// ROMNone leaves the boot to the firmware: OVMF has a PXE stack of its own
	// (client architecture 7, TFTP only). SeaBIOS has none, such a machine boots
	// its disk.
	ROMNone ROM = "none"
)

// Any other ROM is the path of a ROM file.

// check says what is wrong with s before anything is made or started.
func (s Spec) check() error {
	bad := func(format string, a ...any) error {
		return fmt.Errorf("virtual machine %s: %s: %w", s.Name, fmt.Sprintf(format, a...), lab.ErrInvalid)
	}
	switch {
	case s.Name == "" || s.Dir == "":
		return bad("it needs a name and a folder")
	case s.Memory <= 0 || s.Disk < 0 || s.Disk%512 != 0:
		return bad("memory of %d bytes, disk of %d bytes; a disk is whole sectors of 512 bytes", s.Memory, s.Disk)
	case s.CPUs < 1:
		return bad("%d CPUs", s.CPUs)
	case len(s.MAC) != 6 || s.MAC[0]&1 != 0:
		return bad("%s is not a network card's address", s.MAC)
	case len(s.Serial) > 20:
		return bad("disk serial %q is longer than the 20 characters that virtio carries", s.Serial)
	case s.Accel != "tcg" && s.Accel != "kvm":
		return bad("accelerator %q is neither tcg nor kvm", s.Accel)
	case s.Wire.Tap != "" && s.Wire.Socket != nil:
		return bad("the network card has two wires")
	case s.Boot != "" && !s.Wire.User():
		return bad("a boot address needs QEMU's own network; on another wire a DHCP server gives it")
	case len(s.Boot) > 127:
		return bad("the boot address has %d bytes, the BOOTP file field takes 127", len(s.Boot))
	case s.Kernel == "" && s.Initrd+s.Cmdline != "":
		return bad("an initrd or a command line without a kernel")
	}
	for _, v := range []string{s.Name, s.Dir, s.Serial, s.UUID, s.Boot, s.Wire.Tap, string(s.ROM)} {
		if strings.ContainsAny(v, "\x00\n\r") {
			return bad("%q has a control character", v)
		}
	}
	return nil
}
