package qemu

import (
	"fmt"
	"path/filepath"
	"strings"
)

// Numbers of the files that the process inherits. Sockets instead of paths: a
// unix socket's path ends at 108 bytes, and an inherited socket is gone with the
// last of its two processes.
const (
	fdMonitor = 3 + iota // ExtraFiles begin at 3
	fdConsole
	fdWire // only with Wire.Socket
)

// Names of the files in Spec.Dir.
const (
	diskFile = "disk.raw"
	varsFile = "efivars.fd"
)

// args is the command line of s, without the program.
//
// -nodefaults and -no-user-config make the machine the same everywhere. No video
// either: the serial line is the screen (see machineArgs). -no-reboot is not set,
// because a machine that reboots itself is part of every boot.
func args(t Tools, s Spec) []string {
	a := []string{
		"-name", "guest=" + quote("carte "+s.Name),
		"-nodefaults", "-no-user-config", "-display", "none",
		"-chardev", fmt.Sprintf("socket,id=monitor,fd=%d", fdMonitor),
		"-mon", "chardev=monitor,mode=control",
		"-chardev", fmt.Sprintf("socket,id=console,fd=%d", fdConsole),
		"-serial", "chardev:console",
		"-m", fmt.Sprint((s.Memory + 1<<20 - 1) >> 20),
		// Without a source of entropy a DHCP client blocks in getrandom for up to a
		// minute.
		"-device", "virtio-rng-pci",
	}
	a = append(a, accelArgs(s)...)
	a = append(a, machineArgs(t, s)...)
	a = append(a, wireArgs(s)...)
	if s.Disk > 0 {
		a = append(a,
			"-drive", "if=none,id=disk,format=raw,discard=unmap,file="+quote(filepath.Join(s.Dir, diskFile)),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=disk,bootindex=%d,serial=%s", diskOrder, quote(s.Serial)))
	}
	if s.UUID != "" {
		a = append(a, "-uuid", s.UUID)
	}
	if s.Kernel != "" {
		a = append(a, "-kernel", s.Kernel, "-append", s.Cmdline)
		if s.Initrd != "" {
			a = append(a, "-initrd", s.Initrd)
		}
	}
	return a
}

// accelArgs: under TCG all CPUs take turns on one thread. With a thread for each,
// one boot in twenty died of an oops in int3 (seen with QEMU 7.2 and two CPUs).
func accelArgs(s Spec) []string {
	smp := []string{"-smp", fmt.Sprint(s.CPUs)}
	if s.Accel == "kvm" {
		return append(smp, "-accel", "kvm", "-cpu", "host")
	}
	return append(smp, "-accel", "tcg,thread=single", "-cpu", "max")
}

// machineArgs: graphics=off makes SeaBIOS and the iPXE ROM write to the serial
// line, so that the machine's log shows why a network boot failed. OVMF does so by
// itself.
func machineArgs(t Tools, s Spec) []string {
	if !s.UEFI {
		return []string{"-machine", "pc,graphics=off"}
	}
	return []string{
		"-machine", "q35,graphics=off",
		"-drive", "if=pflash,format=raw,readonly=on,file=" + quote(t.Code),
		"-drive", "if=pflash,format=raw,file=" + quote(filepath.Join(s.Dir, varsFile)),
	}
}

// The boot order: the network goes before the disk. What a machine boots is decided
// by the answer to its card; a script that only says "exit" goes on to the disk.
const (
	cardOrder = 1
	diskOrder = 2
)

// later puts the card behind the disk, where that goes first.
func (s Spec) later() int {
	if s.DiskFirst {
		return diskOrder
	}
	return 0
}

func wireArgs(s Spec) []string {
	netdev := "user,id=net,restrict=off"
	switch {
	case s.Wire.Tap != "":
		netdev = "tap,id=net,script=no,downscript=no,ifname=" + quote(s.Wire.Tap)
	case s.Wire.Socket != nil:
		netdev = fmt.Sprintf("dgram,id=net,local.type=fd,local.str=%d", fdWire)
	case s.Boot != "":
		netdev += ",bootfile=" + quote(s.Boot)
	}
	card := fmt.Sprintf("virtio-net-pci,netdev=net,bootindex=%d,mac=%s", cardOrder+s.later(), s.MAC)
	switch s.ROM {
	case ROMiPXE:
	case ROMNone:
		card += ",romfile="
	default:
		card += ",romfile=" + quote(string(s.ROM))
	}
	return []string{"-netdev", netdev, "-device", card}
}

// quote writes a value in QEMU's option syntax, where a comma ends it and two are one.
func quote(v string) string { return strings.ReplaceAll(v, ",", ",,") }
