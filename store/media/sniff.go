package media

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"unicode/utf16"
)

// Sector is the length in bytes of a disk's smallest piece, and so of the smallest image.
const Sector = 512

// Facts is what Sniff found on a logical disk. Texts come from the image and may hold anything: sanitise them before they reach a screen.
type Facts struct {
	Table string     // "gpt", "mbr" or "none"
	Parts []Part     // in the order of the table, without empty entries
	Whole FileSystem // what fills the whole disk, where there is no table
	BIOS  bool       // has boot code in its first sector, or El Torito: may boot from BIOS
	EFI   bool       // has an EFI system partition, or El Torito for EFI
	Note  string     // what is odd: a damaged table, say; else empty
}

// Part is one partition. Start and Size are bytes.
type Part struct {
	Number int // as the system counts, from 1
	Start  int64
	Size   int64
	Type   string // "EFI system", "Linux", ... or the type's GUID or hexadecimal byte
	Name   string // GPT only
	FS     FileSystem
}

// FileSystem is what a partition or disk holds. Type is empty where nothing was recognised.
type FileSystem struct {
	Type  string // "ext4", "vfat", "xfs", "swap", "LUKS", ...
	Label string
	UUID  string
	Size  int64 // bytes that the file system claims; 0 if it does not say or was not asked
}

// String says it in one line, for people.
func (f Facts) String() string {
	var s []string
	if f.Table == "none" {
		s = append(s, "no partition table", f.Whole.String())
	} else {
		s = append(s, f.Table)
	}
	for _, p := range f.Parts {
		what := p.FS.String()
		if p.FS.Type == "" {
			what = p.Type
		} else if p.Type == typeESP {
			what += " (EFI)"
		}
		s = append(s, fmt.Sprintf("%d: %s", p.Number, what))
	}
	switch {
	case f.BIOS && f.EFI:
		s = append(s, "boots BIOS and UEFI")
	case f.BIOS:
		s = append(s, "boots BIOS")
	case f.EFI:
		s = append(s, "boots UEFI")
	default:
		s = append(s, "no boot loader")
	}
	if f.Note != "" {
		s = append(s, f.Note)
	}
	return strings.Join(s, ", ")
}

func (f FileSystem) String() string {
	if f.Type == "" {
		return "no known file system"
	}
	if f.Label != "" {
		return fmt.Sprintf("%s %q", f.Type, f.Label)
	}
	return f.Type
}

const (
	typeESP    = "EFI system"
	maxEntries = 1024 // of a GPT; 128 is usual
	sector     = Sector
)

// Sniff looks at the few places of a logical disk of size bytes where tables, file systems and boot code name themselves. It never fails on odd
// content: that is what Note is for. An error is one of r.
func Sniff(r io.ReaderAt, size int64) (Facts, error) {
	d := &disk{r: r, size: size}
	f := Facts{Table: "none"}
	first := d.at(0, sector)
	signed := len(first) == sector && first[510] == 0x55 && first[511] == 0xaa
	var mbr []Part
	if signed {
		mbr = mbrParts(first, size)
	}
	for _, s := range []int64{512, 4096} {
		if h := d.at(s, 92); len(h) == 92 && string(h[:8]) == "EFI PART" {
			f.Table = "gpt"
			f.Parts, f.Note = d.gptParts(h, s)
			break
		}
	}
	f.Whole = d.fileSystem(0, size)
	if f.Table == "none" && len(mbr) > 0 && f.Whole.Type != "vfat" && f.Whole.Type != "exfat" && f.Whole.Type != "ntfs" {
		f.Table, f.Parts = "mbr", mbr
	}
	f.BIOS = signed && (f.Table != "none" || f.Whole.Type == "iso9660" || f.Whole.Type == "") && !allZero(first[:440])
	bios, efi := d.elTorito()
	f.BIOS, f.EFI = f.BIOS || bios, efi
	for i := range f.Parts {
		p := &f.Parts[i]
		p.FS = d.fileSystem(p.Start, p.Size)
		f.EFI = f.EFI || p.Type == typeESP
		if p.Start+p.Size > size && f.Note == "" {
			f.Note = fmt.Sprintf("partition %d ends %d bytes behind the end of the image", p.Number, p.Start+p.Size-size)
		}
	}
	if f.Table != "none" && f.Whole.Type != "iso9660" {
		f.Whole = FileSystem{}
	}
	return f, d.err
}

// disk reads short pieces and remembers the first error that is not the end.
type disk struct {
	r    io.ReaderAt
	size int64
	err  error
}

// at returns n bytes at off, or fewer at the end of the disk.
func (d *disk) at(off int64, n int) []byte {
	if off < 0 || off >= d.size || d.err != nil {
		return nil
	}
	b := make([]byte, min(int64(n), d.size-off))
	got, err := d.r.ReadAt(b, off)
	if err != nil && err != io.EOF {
		d.err = fmt.Errorf("look at byte %d: %w", off, err)
	}
	return b[:got]
}

func allZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// mbrParts reads the four entries of a master boot record; logical partitions are not followed. nil if this is no table.
func mbrParts(b []byte, size int64) []Part {
	var parts []Part
	for i := range 4 {
		e := b[446+16*i:][:16]
		if e[0]&0x7f != 0 {
			return nil // a boot flag is 0x00 or 0x80: this is text or code
		}
		start, n := int64(binary.LittleEndian.Uint32(e[8:]))*sector, int64(binary.LittleEndian.Uint32(e[12:]))*sector
		if e[4] == 0 || n == 0 || start >= size {
			continue
		}
		parts = append(parts, Part{Number: i + 1, Start: start, Size: n, Type: mbrType(e[4])})
	}
	return parts
}

func mbrType(t byte) string {
	switch t {
	case 0xef:
		return typeESP
	case 0x83:
		return "Linux"
	case 0x82:
		return "Linux swap"
	case 0x8e:
		return "Linux LVM"
	case 0x05, 0x0f, 0x85:
		return "extended"
	case 0x07:
		return "Windows"
	case 0x0b, 0x0c, 0x0e, 0x06, 0x04, 0x01:
		return "FAT"
	case 0xa5:
		return "FreeBSD"
	case 0xa6:
		return "OpenBSD"
	case 0xa9:
		return "NetBSD"
	case 0xee:
		return "protective"
	}
	return fmt.Sprintf("0x%02x", t)
}

var gptTypes = map[string]string{
	"c12a7328-f81f-11d2-ba4b-00a0c93ec93b": typeESP,
	"21686148-6449-6e6f-744e-656564454649": "BIOS boot",
	"0fc63daf-8483-4772-8e79-3d69d8477de4": "Linux",
	"4f68bce3-e8cd-4db1-96e7-fbcaf984b709": "Linux root",
	"0657fd6d-a4ab-43c4-84e5-0933c84b4f4f": "Linux swap",
	"e6d6d379-f507-44c2-a23c-238f2a3df928": "Linux LVM",
	"bc13c2ff-59e6-4262-a352-b275fd6f7172": "Linux boot",
	"ebd0a0a2-b9e5-4433-87c0-68b6b72699c7": "data",
	"e3c9e316-0b5c-4db8-817d-f92df00215ae": "Windows reserved",
	"516e7cb4-6ecf-11d6-8ff8-00022d09712b": "FreeBSD",
	"516e7cb6-6ecf-11d6-8ff8-00022d09712b": "FreeBSD UFS",
	"516e7cba-6ecf-11d6-8ff8-00022d09712b": "FreeBSD ZFS",
	"83bd6b9d-7f41-11dc-be0b-001560b84f0f": "FreeBSD boot",
}

// gptParts reads a GUID partition table with sectors of s bytes (UEFI 2.10, section 5.3).
func (d *disk) gptParts(h []byte, s int64) ([]Part, string) {
	le := binary.LittleEndian
	sum := le.Uint32(h[16:])
	clean := bytes.Clone(h)
	clear(clean[16:20])
	if le.Uint32(h[12:]) == 92 && crc32.ChecksumIEEE(clean) != sum {
		return nil, "the partition table is damaged (check sum of its header)"
	}
	lba, n, size := le.Uint64(h[72:]), le.Uint32(h[80:]), le.Uint32(h[84:])
	if n > maxEntries || size < 128 || size > 4096 || lba > uint64(d.size/s) {
		return nil, "the partition table is damaged (size of its entries)"
	}
	b := d.at(int64(lba)*s, int(n*size))
	note := ""
	if crc32.ChecksumIEEE(b) != le.Uint32(h[88:]) {
		note = "the partition table is damaged (check sum of its entries)"
	}
	var parts []Part
	for i := 0; (i+1)*int(size) <= len(b); i++ {
		e := b[i*int(size):]
		first, last := int64(le.Uint64(e[32:])), int64(le.Uint64(e[40:]))
		if allZero(e[:16]) || first < 0 || last < first || last > 1<<50/s {
			continue
		}
		t := guid(e[:16])
		if known, ok := gptTypes[t]; ok {
			t = known
		}
		parts = append(parts, Part{Number: i + 1, Start: first * s, Size: (last - first + 1) * s, Type: t, Name: utf16Text(e[56:128])})
	}
	return parts, note
}

// guid writes the mixed-endian form that GPT uses.
func guid(b []byte) string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
}

func uuid(b []byte) string {
	if allZero(b) {
		return ""
	}
	h := hex.EncodeToString(b)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

func utf16Text(b []byte) string {
	var u []uint16
	for ; len(b) >= 2 && (b[0] != 0 || b[1] != 0); b = b[2:] {
		u = append(u, binary.LittleEndian.Uint16(b))
	}
	return string(utf16.Decode(u))
}
