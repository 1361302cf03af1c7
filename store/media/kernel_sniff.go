package media

import (
	"debug/elf"
	"encoding/binary"
	"strings"

	"carte/lab"
)

// A Program is what a file says that a boot loader can start.
type Program struct {
	Starts   string         // linux, multiboot, elf, efi
	Arch     string         // as Go calls it; empty: not known
	Release  string         // of a Linux kernel that says it: "6.1.0-18-amd64"
	Firmware []lab.Firmware // that iPXE can start it under
	Format   string         // for people: "bzImage", "multiboot 2"
}

// programHead is how much of the beginning of a file SniffProgram looks at.
const programHead = 128 << 10

// SniffProgram looks at the beginning of a file, of which 128 KiB are enough, and says how it is started. ok is false where it is nothing that can be.
func SniffProgram(b []byte) (p Program, ok bool) {
	b = b[:min(len(b), programHead)]
	for _, look := range []func([]byte) (Program, bool){linuxX86, linuxARM, efiProgram, multiboot, elfProgram} {
		if p, ok = look(b); ok {
			return p, true
		}
	}
	return Program{}, false
}

// BareProgram looks at the beginning of what may be a disk, of which 128 KiB are enough. ok says that it is no disk but the file of a program that a boot
// loader starts. A boot sector makes it a disk, whatever lies behind it, unless it is a Linux kernel's, which has one to say that it needs a boot loader.
func BareProgram(b []byte) (p Program, ok bool) {
	if p, ok = SniffProgram(b); !ok || p.Starts == "linux" {
		return p, ok
	}
	return p, len(b) < Sector || b[510] != 0x55 || b[511] != 0xaa
}

// linuxX86 reads the setup header (kernel: Documentation/arch/x86/boot.rst).
func linuxX86(b []byte) (Program, bool) {
	le := binary.LittleEndian
	if len(b) < 0x264 || le.Uint16(b[0x1fe:]) != 0xaa55 || string(b[0x202:0x206]) != "HdrS" {
		return Program{}, false
	}
	p := Program{Starts: "linux", Arch: "386", Firmware: []lab.Firmware{lab.BIOS}, Format: "bzImage"}
	if le.Uint16(b[0x206:]) >= 0x20c && le.Uint16(b[0x236:])&1 != 0 {
		p.Arch = "amd64"
	}
	if _, ok := peMachine(b); ok {
		p.Firmware = append(p.Firmware, lab.UEFI)
	}
	if at := int(le.Uint16(b[0x20e:])) + 0x200; at > 0x200 && at < len(b) {
		text, _, _ := strings.Cut(string(b[at:min(len(b), at+256)]), "\x00")
		if words := strings.Fields(text); len(words) > 0 {
			p.Release = lab.Clean(words[0])
		}
	}
	return p, true
}

// linuxARM reads the header of an arm64 Image (kernel: Documentation/arch/arm64/booting.rst).
func linuxARM(b []byte) (Program, bool) {
	if len(b) < 0x40 || string(b[0x38:0x3c]) != "ARM\x64" {
		return Program{}, false
	}
	return Program{Starts: "linux", Arch: "arm64", Firmware: []lab.Firmware{lab.UEFI}, Format: "arm64 Image"}, true
}

// multiboot finds the header of version 1 or 2, which lies somewhere in the beginning and adds up to zero.
func multiboot(b []byte) (Program, bool) {
	for _, v := range []struct {
		magic        uint32
		step, within int
		words        int
		format       string
	}{{0x1badb002, 4, 8192, 3, "multiboot"}, {0xe85250d6, 8, 32768, 4, "multiboot 2"}} {
		for at := 0; at+4*v.words <= min(len(b), v.within); at += v.step {
			if binary.LittleEndian.Uint32(b[at:]) != v.magic {
				continue
			}
			sum := uint32(0)
			for i := range v.words {
				sum += binary.LittleEndian.Uint32(b[at+4*i:])
			}
			if sum != 0 {
				continue
			}
			p := Program{Starts: "multiboot", Arch: "386", Firmware: []lab.Firmware{lab.BIOS}, Format: v.format}
			if arch := goArch(machine(b)); arch != "" {
				p.Arch = arch
			}
			return p, true
		}
	}
	return Program{}, false
}

// peMachine returns for which processor a PE program is, where b begins one (Microsoft: PE format).
func peMachine(b []byte) (arch string, ok bool) {
	if len(b) < 0x40 || string(b[:2]) != "MZ" {
		return "", false
	}
	at := int64(binary.LittleEndian.Uint32(b[0x3c:]))
	if at+24 > int64(len(b)) || string(b[at:at+4]) != "PE\x00\x00" {
		return "", false
	}
	switch binary.LittleEndian.Uint16(b[at+4:]) {
	case 0x8664:
		return "amd64", true
	case 0xaa64:
		return "arm64", true
	case 0x14c:
		return "386", true
	}
	return "", true
}

// efiProgram is a PE program for the subsystem "EFI application".
func efiProgram(b []byte) (Program, bool) {
	arch, ok := peMachine(b)
	if !ok {
		return Program{}, false
	}
	const subsystem, application = 24 + 68, 10
	at := int(binary.LittleEndian.Uint32(b[0x3c:])) + subsystem
	if at+2 > len(b) || binary.LittleEndian.Uint16(b[at:]) != application {
		return Program{}, false
	}
	return Program{Starts: "efi", Arch: arch, Firmware: []lab.Firmware{lab.UEFI}, Format: "EFI program"}, true
}

func elfProgram(b []byte) (Program, bool) {
	arch := machine(b)
	if arch == "" {
		return Program{}, false
	}
	le := b[elf.EI_DATA] == byte(elf.ELFDATA2LSB)
	kind := uint16(b[16]) | uint16(b[17])<<8
	if !le {
		kind = uint16(b[17]) | uint16(b[16])<<8
	}
	if t := elf.Type(kind); t != elf.ET_EXEC && t != elf.ET_DYN {
		return Program{}, false
	}
	return Program{Starts: "elf", Arch: goArch(arch), Firmware: []lab.Firmware{lab.BIOS}, Format: "ELF"}, true
}

// goArch is a processor as Go calls it.
func goArch(s string) string {
	switch s {
	case "x86-64":
		return "amd64"
	case "i386":
		return "386"
	}
	return s
}
