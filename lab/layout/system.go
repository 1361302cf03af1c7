package layout

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
)

// A System is what a partition, or a disk without a table, holds: a file system or something like one.
type System struct {
	Off, Bytes  int64  // where it begins, and how far it reaches; from Identify 0 bytes where it does not say
	Used        int64  // of Bytes, what it needs: all where Kept says why
	Type        string // "ext4", "vfat", "xfs", "swap", "luks", ...; "" where nothing was recognised
	UUID, Label string // they may hold anything: sanitise them before they reach a screen
	Clean       bool   // it says that it was left in order; false where it says nothing of the kind
	Kept        string // why its free space is not known, in words; "" when it is
}

func (s System) String() string {
	switch {
	case s.Type == "":
		return "no known file system"
	case s.Label != "":
		return fmt.Sprintf("%s %q", s.Type, s.Label)
	}
	return s.Type
}

// Identify says what the size bytes at off hold: Off, Bytes, Type, UUID and Label. Where they could be more than one thing it
// is the first of a fixed order. The error is one of r.
func Identify(r io.ReaderAt, off, size int64) (System, error) {
	s := &source{r: r, size: off + size}
	all := s.identify(off, size)
	if len(all) == 0 {
		return System{Off: off}, s.err
	}
	return all[0], s.err
}

// magics name what is known by a few bytes at a fixed place, and where its label and UUID are (0 length, 0 place: nowhere).
var magics = []struct {
	at    int
	magic string
	name  string
	label [2]int // place and length
	uuid  int
}{
	{0, "XFSB", "xfs", [2]int{108, 12}, 32},
	{65536 + 64, "_BHRfS_M", "btrfs", [2]int{65536 + 299, 256}, 65536 + 32},
	{0, "hsqs", "squashfs", [2]int{}, 0},
	{1024, "\xe2\xe1\xf5\xe0", "erofs", [2]int{1024 + 64, 16}, 1024 + 48},
	{1024, "\x10\x20\xf5\xf2", "f2fs", [2]int{}, 1024 + 108},
	{3, "NTFS    ", "ntfs", [2]int{}, 0},
	{3, "-FVE-FS-", "bitlocker", [2]int{}, 0},
	{3, "EXFAT   ", "exfat", [2]int{}, 0},
	{3, "ReFS\x00", "refs", [2]int{}, 0},
	{0, "LUKS\xba\xbe", "luks", [2]int{}, 0},
	{0, "LABELONE", "lvm", [2]int{}, 0},
	{512, "LABELONE", "lvm", [2]int{}, 0},
	{1024, "LABELONE", "lvm", [2]int{}, 0},
	{1536, "LABELONE", "lvm", [2]int{}, 0},
	{4096, "\xfc\x4e\x2b\xa9", "linux raid", [2]int{4096 + 32, 32}, 4096 + 16},
	{0, "\xfc\x4e\x2b\xa9", "linux raid", [2]int{32, 32}, 16},
	{4096 + 24, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", "bcache", [2]int{}, 4096 + 40},
	{4096 + 24, "\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef", "bcachefs", [2]int{4096 + 72, 32}, 4096 + 56},
	{4086, swapMagic, "swap", [2]int{1052, 16}, 1036},
	{65536 - 10, swapMagic, "swap", [2]int{1052, 16}, 1036},
	{4086, "S1SUSPEND", "hibernation", [2]int{}, 0},
	{4086, "S2SUSPEND", "hibernation", [2]int{}, 0},
	{4086, "ULSUSPEND", "hibernation", [2]int{}, 0},
	{4086, "LINHIB0001", "hibernation", [2]int{}, 0},
	{32769, "CD001", "iso9660", [2]int{32808, 32}, 0},
	{32769, "NSR0", "udf", [2]int{}, 0},
	{65536 + 1372, "\x19\x01\x54\x19", "ufs", [2]int{65536 + 680, 32}, 0},
	{8192 + 1372, "\x19\x01\x54\x19", "ufs", [2]int{8192 + 680, 32}, 0},
	{32, "NXSB", "apfs", [2]int{}, 0},
	{1024, "H+\x00\x04", "hfs+", [2]int{}, 0},
	{1024, "HX\x00\x05", "hfs+", [2]int{}, 0},
	{65536 + 52, "ReIsEr", "reiserfs", [2]int{}, 0},
	{32768, "JFS1", "jfs", [2]int{}, 0},
}

// longest is how far into a partition they lie.
const longest = 66 << 10

// identify lists everything that the size bytes at off could be, the likeliest first.
func (s *source) identify(off, size int64) []System {
	if size <= 0 || off < 0 || off >= s.size {
		return nil
	}
	b := s.at(off, int(min(longest, size)))
	var all []System
	add := func(x System) {
		x.Off = off
		for _, y := range all {
			if x.Type == "" || x.Type == y.Type {
				return
			}
		}
		if x.Type != "" {
			all = append(all, x)
		}
	}
	add(extFacts(cut(b, 1024, 1024)))
	for _, m := range magics {
		if string(cut(b, m.at, len(m.magic))) != m.magic {
			continue
		}
		x := System{Type: m.name, Label: text(cut(b, m.label[0], m.label[1]))}
		if id := cut(b, m.uuid, 16); m.uuid > 0 && id != nil {
			x.UUID = uuid(id)
		}
		add(x)
	}
	add(fatFacts(cut(b, 0, 512)))
	add(s.raidAtEnd(off, size))
	if len(all) == 0 {
		add(s.zfs(off, size))
	}
	return all
}

// raidAtEnd finds the two forms of Linux RAID (md) that keep what they know behind the data: 1.0 and 0.90.
func (s *source) raidAtEnd(off, size int64) System {
	for _, at := range []int64{(size&^511 - 8<<10) &^ (4<<10 - 1), size&^(64<<10-1) - 64<<10} {
		if at > 0 && string(s.at(off+at, 4)) == "\xfc\x4e\x2b\xa9" {
			return System{Type: "linux raid"}
		}
	}
	return System{}
}

// zfs looks for an uberblock in the first label: a ring of at least 1 KiB each, from 128 KiB on.
func (s *source) zfs(off, size int64) System {
	if size < 64<<20 {
		return System{}
	}
	b := s.at(off+128<<10, 128<<10)
	for i := 0; i+8 <= len(b); i += 1024 {
		if binary.LittleEndian.Uint64(b[i:]) == 0x00bab10c || binary.BigEndian.Uint64(b[i:]) == 0x00bab10c {
			return System{Type: "zfs"}
		}
	}
	return System{}
}

// bootSector reports whether the first block of a disk is a file system's own, which ends with the same two bytes as an MBR.
func bootSector(b []byte) bool {
	switch string(cut(b, 3, 8)) {
	case "NTFS    ", "EXFAT   ", "-FVE-FS-":
		return true
	}
	return fatFacts(cut(b, 0, 512)).Type != ""
}

// text is what a padded field says.
func text(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	return strings.TrimSpace(s)
}

func uuid(b []byte) string {
	if isZero(b) {
		return ""
	}
	h := hex.EncodeToString(b)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// fatFacts reads a FAT boot sector. FAT12 and FAT16 keep label and serial at another place than FAT32.
func fatFacts(b []byte) System {
	if len(b) < 512 || b[510] != 0x55 || b[511] != 0xaa {
		return System{}
	}
	ext := 0
	switch {
	case bytes.HasPrefix(b[82:], []byte("FAT32")):
		ext = 67
	case bytes.HasPrefix(b[54:], []byte("FAT1")):
		ext = 39
	default:
		return System{}
	}
	x := System{Type: "vfat", Label: text(b[ext+4 : ext+15]), UUID: fmt.Sprintf("%04X-%04X", binary.LittleEndian.Uint16(b[ext+2:]), binary.LittleEndian.Uint16(b[ext:]))}
	if x.Label == "NO NAME" {
		x.Label = ""
	}
	if f, why := parseFAT(b); why == "" {
		x.Bytes = f.sectors * f.sector
	}
	return x
}
