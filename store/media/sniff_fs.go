package media

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
)

// fsMagics name the file systems that are known by a few bytes at a fixed place, and where their label and UUID are (0 length: nowhere).
var fsMagics = []struct {
	at    int64
	magic string
	fs    string
	label [2]int64 // place and length
	uuid  int64    // place; 0 for none
}{
	{0, "XFSB", "xfs", [2]int64{108, 12}, 32},
	{65536 + 64, "_BHRfS_M", "btrfs", [2]int64{65536 + 299, 256}, 65536 + 32},
	{0, "hsqs", "squashfs", [2]int64{}, 0},
	{1024, "\xe2\xe1\xf5\xe0", "erofs", [2]int64{1024 + 64, 16}, 1024 + 48},
	{1024, "\x10\x20\xf5\xf2", "f2fs", [2]int64{}, 1024 + 108},
	{3, "NTFS    ", "ntfs", [2]int64{}, 0},
	{3, "EXFAT   ", "exfat", [2]int64{}, 0},
	{0, "LUKS\xba\xbe", "LUKS", [2]int64{}, 0},
	{512, "LABELONE", "LVM", [2]int64{}, 0},
	{4086, "SWAPSPACE2", "swap", [2]int64{1052, 16}, 1036},
	{32769, "CD001", "iso9660", [2]int64{32808, 32}, 0},
	{65536 + 1372, "\x19\x01\x54\x19", "ufs", [2]int64{65536 + 680, 32}, 0},
	{8192 + 1372, "\x19\x01\x54\x19", "ufs", [2]int64{8192 + 680, 32}, 0},
}

// fileSystem looks at the size bytes at start.
func (d *disk) fileSystem(start, size int64) FileSystem {
	if size <= 0 || start >= d.size {
		return FileSystem{}
	}
	if sb := d.at(start+1024, 1024); len(sb) == 1024 && binary.LittleEndian.Uint16(sb[0x38:]) == 0xef53 {
		return extFacts(sb)
	}
	for _, m := range fsMagics {
		if m.at+int64(len(m.magic)) > size || !bytes.Equal(d.at(start+m.at, len(m.magic)), []byte(m.magic)) {
			continue
		}
		f := FileSystem{Type: m.fs}
		if m.label[1] > 0 {
			f.Label = text(d.at(start+m.label[0], int(m.label[1])))
		}
		if b := d.at(start+m.uuid, 16); m.uuid > 0 && len(b) == 16 {
			f.UUID = uuid(b)
		}
		return f
	}
	return fatFacts(d.at(start, sector))
}

// extFacts reads the super block of ext2, ext3 or ext4 (kernel: Documentation/filesystems/ext4/super.rst).
func extFacts(sb []byte) FileSystem {
	le := binary.LittleEndian
	f := FileSystem{Type: "ext2", Label: text(sb[0x78:0x88]), UUID: uuid(sb[0x68:0x78])}
	incompat := le.Uint32(sb[0x60:])
	if le.Uint32(sb[0x5c:])&4 != 0 {
		f.Type = "ext3"
	}
	if incompat&0x2c0 != 0 { // extents, 64 bit, flexible groups
		f.Type = "ext4"
	}
	blocks := uint64(le.Uint32(sb[4:]))
	if incompat&0x80 != 0 {
		blocks |= uint64(le.Uint32(sb[0x150:])) << 32
	}
	if bits := le.Uint32(sb[0x18:]); bits <= 6 && blocks < 1<<48 {
		f.Size = int64(blocks) << (10 + bits)
	}
	return f
}

// fatFacts reads a FAT boot sector. FAT12 and FAT16 keep label and serial at another place than FAT32.
func fatFacts(b []byte) FileSystem {
	if len(b) < sector || b[510] != 0x55 || b[511] != 0xaa {
		return FileSystem{}
	}
	ext := 0
	switch {
	case string(b[82:87]) == "FAT32":
		ext = 67
	case string(b[54:58]) == "FAT1":
		ext = 39
	default:
		return FileSystem{}
	}
	f := FileSystem{Type: "vfat", Label: text(b[ext+4 : ext+15]), UUID: fmt.Sprintf("%04X-%04X", binary.LittleEndian.Uint16(b[ext+2:]), binary.LittleEndian.Uint16(b[ext:]))}
	if f.Label == "NO NAME" {
		f.Label = ""
	}
	return f
}

// text is what a padded field says.
func text(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	return strings.TrimSpace(s)
}

// elTorito reports for which firmware a CD image has a boot entry (El Torito 1.0: the boot record volume, its catalogue, platform ids).
func (d *disk) elTorito() (bios, efi bool) {
	const block = 2048
	b := d.at(17*block, block)
	if len(b) < block || string(b[1:6]) != "CD001" || !bytes.HasPrefix(b[7:], []byte("EL TORITO SPECIFICATION")) {
		return false, false
	}
	c := d.at(int64(binary.LittleEndian.Uint32(b[71:]))*block, block)
	if len(c) < block || c[0] != 1 {
		return false, false
	}
	platform := c[1]
	for o := 32; o+32 <= len(c); o += 32 {
		switch c[o] {
		case 0x90, 0x91: // a section header: its entries follow
			platform = c[o+1]
		case 0x88:
			bios = bios || platform == 0
			efi = efi || platform == 0xef
		case 0:
			return bios, efi
		}
	}
	return bios, efi
}
