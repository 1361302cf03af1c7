package media

import (
	"encoding/binary"
	"slices"
	"strings"
)

// UEFI starts a disk that it has not seen before by \EFI\BOOT\BOOTX64.EFI, or the same name for another processor, in the FAT of an EFI system partition
// (UEFI 2.10, section 3.5.1.1). Other loaders on it need an entry in the firmware's own memory.

// loader reports whether the FAT at off, of at most size bytes, has a loader that UEFI finds by itself. What it cannot read has none.
func (d *disk) loader(off, size int64) bool {
	v, ok := d.fat(off, size)
	if !ok {
		return false
	}
	efi, ok := v.find(v.root, func(name, ext string, folder bool) bool { return folder && name == "EFI" && ext == "" })
	if !ok {
		return false
	}
	boot, ok := v.find(efi, func(name, ext string, folder bool) bool { return folder && name == "BOOT" && ext == "" })
	if !ok {
		return false
	}
	_, ok = v.find(boot, func(name, ext string, folder bool) bool {
		return !folder && strings.HasPrefix(name, "BOOT") && ext == "EFI"
	})
	return ok
}

// fat is as much of a FAT file system ("Microsoft FAT Specification", 2005) as finding a file takes. Places are bytes of the disk.
type fat struct {
	d                  *disk
	table, data        int64 // the first table; cluster 2
	cluster            int64 // bytes of one
	clusters           int64
	bits               int // of an entry of the table
	root               folder
	fixed, fixedLength int64 // where FAT12 and FAT16 keep the root folder
}

// folder is where a folder begins: a cluster, or, as 0, the fixed root.
type folder int64

// maxFolder is how many bytes of a folder are looked at: FAT allows no more.
const maxFolder = 65536 * 32

// fat reads the boot sector of the FAT at off.
func (d *disk) fat(off, size int64) (v *fat, ok bool) {
	le := binary.LittleEndian
	b := d.at(off, Sector)
	if len(b) < Sector || b[510] != 0x55 || b[511] != 0xaa {
		return nil, false
	}
	sector, per := int64(le.Uint16(b[11:])), int64(b[13])
	reserved, tables, root := int64(le.Uint16(b[14:])), int64(b[16]), int64(le.Uint16(b[17:]))*32
	length, sectors := int64(le.Uint16(b[22:])), int64(le.Uint16(b[19:]))
	if sectors == 0 {
		sectors = int64(le.Uint32(b[32:]))
	}
	if !slices.Contains([]int64{512, 1024, 2048, 4096}, sector) || per == 0 || reserved == 0 || tables == 0 || sectors*sector > size {
		return nil, false
	}
	v = &fat{d: d, table: off + reserved*sector, cluster: per * sector, bits: 16}
	if length == 0 {
		v.bits, length, v.root = 32, int64(le.Uint32(b[36:])), folder(le.Uint32(b[44:]))
	}
	v.fixed, v.fixedLength = v.table+tables*length*sector, root
	v.data = v.fixed + (root+sector-1)/sector*sector
	v.clusters = (off + sectors*sector - v.data) / v.cluster
	if v.bits == 16 && v.clusters <= 4084 {
		v.bits = 12
	}
	return v, v.clusters > 0
}

// find looks for an entry of a folder by its short name, which every entry has, in capitals; a longer name's has a number in it. It returns where the
// entry's own content begins.
func (v *fat) find(in folder, is func(name, ext string, folder bool) bool) (folder, bool) {
	for at, left := in, int64(maxFolder); left > 0; {
		place, n := v.fixed, min(v.fixedLength, maxFolder)
		if in != 0 {
			if at < 2 || int64(at)-2 >= v.clusters {
				return 0, false
			}
			place, n = v.data+(int64(at)-2)*v.cluster, v.cluster
		}
		b := v.d.at(place, int(n))
		for ; len(b) >= 32; b = b[32:] {
			const label, isFolder, long, gone = 0x08, 0x10, 0x0f, 0xe5
			if b[0] == 0 {
				return 0, false
			}
			if b[0] == gone || b[11] == long || b[11]&label != 0 {
				continue
			}
			if is(strings.TrimRight(string(b[:8]), " "), strings.TrimRight(string(b[8:11]), " "), b[11]&isFolder != 0) {
				return v.begin(b), true
			}
		}
		if in == 0 {
			return 0, false
		}
		left -= n
		at = v.next(at)
	}
	return 0, false
}

// begin is the first cluster of an entry.
func (v *fat) begin(entry []byte) folder {
	n := uint32(binary.LittleEndian.Uint16(entry[26:]))
	if v.bits == 32 {
		n |= uint32(binary.LittleEndian.Uint16(entry[20:])) << 16
	}
	if n == 0 {
		return 1 // no cluster: an empty file, or damage; 0 would be the root
	}
	return folder(n)
}

// next is the cluster behind another one. What is none is not in the file system.
func (v *fat) next(at folder) folder {
	b := v.d.at(v.table+int64(at)*int64(v.bits)/8, 4)
	if len(b) < 4 {
		b = append(b, make([]byte, 4-len(b))...)
	}
	n := binary.LittleEndian.Uint32(b)
	switch v.bits {
	case 12:
		n = n >> (uint(at&1) * 4) & 0xfff
	case 16:
		n &= 0xffff
	default:
		n &= 0x0fffffff
	}
	return folder(n)
}
