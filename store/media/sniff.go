package media

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"carte/lab/layout"
)

// Sector is the length in bytes of a disk's smallest piece, and so of the smallest image.
const Sector = 512

// Facts is what Sniff found on a logical disk. Texts come from the image and may hold anything: sanitise them before they reach a screen.
type Facts struct {
	Table string     // "gpt", "mbr" or "none"
	Parts []Part     // in the order of the table, without empty entries
	Whole FileSystem // what fills the whole disk, where there is no table
	BIOS  bool       // has boot code in its first sector, or El Torito: may boot from BIOS
	EFI   bool       // has a loader on an EFI system partition, or El Torito for EFI
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
	Type  string // "ext4", "vfat", "xfs", "swap", "luks", ...
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
		} else if p.Type == layout.TypeESP {
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
	return layout.System{Type: f.Type, Label: f.Label}.String()
}

// Sniff looks at the few places of a logical disk of size bytes where tables, file systems and boot code name themselves. It never fails on odd
// content: that is what Note is for. An error is one of r.
func Sniff(r io.ReaderAt, size int64) (Facts, error) {
	d := &disk{r: r, size: size}
	t, err := layout.ReadTable(r, size)
	if err != nil {
		return Facts{}, err
	}
	f := Facts{Table: "none", Note: t.Note, Whole: d.fileSystem(0, size)}
	if t.Kind == "gpt" || len(t.Parts) > 0 {
		f.Table = t.Kind
	}
	first := d.at(0, Sector)
	signed := len(first) == Sector && first[510] == 0x55 && first[511] == 0xaa
	f.BIOS = signed && (f.Table != "none" || f.Whole.Type == "iso9660" || f.Whole.Type == "") && len(bytes.Trim(first[:440], "\x00")) > 0
	bios, efi := d.elTorito()
	f.BIOS, f.EFI = f.BIOS || bios, efi
	for _, p := range t.Parts {
		x := Part{Number: p.Number, Start: p.Off, Size: p.Bytes, Type: p.Type, Name: p.Name}
		if p.Type != layout.TypeExtended {
			x.FS = d.fileSystem(p.Off, p.Bytes)
		}
		f.Parts = append(f.Parts, x)
		f.EFI = f.EFI || p.Type == layout.TypeESP && d.loader(p.Off, p.Bytes)
		if p.Off+p.Bytes > size && f.Note == "" {
			f.Note = fmt.Sprintf("partition %d ends %d bytes behind the end of the image", p.Number, p.Off+p.Bytes-size)
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

// fileSystem looks at the size bytes at off.
func (d *disk) fileSystem(off, size int64) FileSystem {
	if d.err != nil || off >= d.size {
		return FileSystem{}
	}
	x, err := layout.Identify(d.r, off, min(size, d.size-off))
	d.err = err
	return FileSystem{Type: x.Type, Label: x.Label, UUID: x.UUID, Size: x.Bytes}
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
