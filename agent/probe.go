package agent

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"unicode"

	"carte/lab/chunk"
)

// probed is how much is read at the beginning and the end of a disk, and at the beginning of a partition.
const probed = 1 << 20

// contents says in words what is on a disk: "" when its first and last MiB are blank, else such as
// `GPT with 2 partitions: vfat, ext4 "root"`. A disk that cannot be read holds something for all that is known.
func contents(r io.ReaderAt, size int64, block int) string {
	head, err := readSome(r, 0, size)
	if err != nil {
		return "unreadable: " + err.Error()
	}
	tail, err := readSome(r, max(0, size-probed), size)
	if err != nil {
		return "unreadable: " + err.Error()
	}
	if table, parts := partitions(r, head, tail, block); table != "" {
		return describe(r, size, table, parts)
	}
	if fs := fileSystem(head); fs != "" {
		return fs
	}
	if chunk.IsZero(head) && chunk.IsZero(tail) {
		return ""
	}
	return "data of an unknown kind"
}

// readSome reads up to probed bytes from off, into memory that direct reads can use.
func readSome(r io.ReaderAt, off, size int64) ([]byte, error) {
	b := aligned(int(max(0, min(probed, size-off))))
	_, err := r.ReadAt(b, off)
	if err == io.EOF {
		err = nil
	}
	return b, err
}

// A partition is one entry of a table, in bytes.
type partition struct{ off, bytes int64 }

func describe(r io.ReaderAt, size int64, table string, parts []partition) string {
	const most = 8
	var words []string
	for _, p := range parts {
		b, err := readSome(r, p.off, min(size, p.off+p.bytes))
		fs := fileSystem(b)
		switch {
		case len(words) == most:
			words = append(words, "…")
		case len(words) > most:
		case err != nil:
			words = append(words, "unreadable")
		case fs != "":
			words = append(words, fs)
		case chunk.IsZero(b):
			words = append(words, "blank")
		default:
			words = append(words, "unknown")
		}
	}
	switch {
	case strings.Contains(table, ", "):
		return table // damaged or unreadable
	case len(parts) == 0:
		return table + " without partitions"
	case len(parts) == 1:
		return table + " with 1 partition: " + words[0]
	}
	return fmt.Sprintf("%s with %d partitions: %s", table, len(parts), strings.Join(words[:min(len(words), most+1)], ", "))
}

// partitions reads a GPT, its copy at the end when the first is gone, or an MBR.
func partitions(r io.ReaderAt, head, tail []byte, block int) (table string, parts []partition) {
	le := binary.LittleEndian
	header := cut(head, block, gptHeaderSize)
	if !bytes.HasPrefix(header, []byte("EFI PART")) {
		header = cut(tail, len(tail)-block, gptHeaderSize)
		table = "GPT (only its copy)"
	} else {
		table = "GPT"
	}
	if bytes.HasPrefix(header, []byte("EFI PART")) {
		n, size := int64(le.Uint32(header[80:])), int64(le.Uint32(header[84:]))
		if n > 1024 || size < 128 || size > 4096 {
			return table + ", damaged", nil
		}
		array := make([]byte, n*size)
		if _, err := r.ReadAt(array, int64(le.Uint64(header[72:])&(1<<40-1))*int64(block)); err != nil && err != io.EOF {
			return table + ", unreadable", nil
		}
		for e := array; int64(len(e)) >= size; e = e[size:] {
			first, last := le.Uint64(e[32:]), le.Uint64(e[40:])
			if !chunk.IsZero(e[:16]) && first <= last && last < 1<<40 {
				parts = append(parts, partition{int64(first) * int64(block), int64(last-first+1) * int64(block)})
			}
		}
		return table, parts
	}
	// A file system's own boot sector ends with the same two bytes as an MBR.
	if sig := cut(head, 510, 2); len(sig) < 2 || sig[0] != 0x55 || sig[1] != 0xaa || fileSystem(head) != "" {
		return "", nil
	}
	for i := range 4 {
		e := head[446+16*i:][:16]
		if first, n := le.Uint32(e[8:]), le.Uint32(e[12:]); e[4] != 0 && n != 0 && e[0]&0x7f == 0 {
			parts = append(parts, partition{int64(first) * int64(block), int64(n) * int64(block)})
		}
	}
	return "MBR", parts
}

// magics is how file systems and their like are known: bytes at a place, and where the label is.
var magics = []struct {
	name  string
	at    int
	magic string
	label func(b []byte) string
}{
	{"ext4", 1024 + 56, "\x53\xef", text(1024+120, 16)},
	{"xfs", 0, "XFSB", text(108, 12)},
	{"btrfs", 64<<10 + 64, "_BHRfS_M", text(64<<10+299, 256)},
	{"ntfs", 3, "NTFS    ", nil},
	{"bitlocker", 3, "-FVE-FS-", nil},
	{"exfat", 3, "EXFAT   ", nil},
	{"vfat", 82, "FAT32   ", text(71, 11)},
	{"vfat", 54, "FAT16   ", text(43, 11)},
	{"vfat", 54, "FAT12   ", text(43, 11)},
	{"luks", 0, "LUKS\xba\xbe", nil},
	{"lvm", 512 + 24, "LVM2 001", nil},
	{"linux raid", 4096, "\xfc\x4e\x2b\xa9", nil},
	{"linux raid", 0, "\xfc\x4e\x2b\xa9", nil},
	{"swap", 4086, "SWAPSPACE2", nil},
	{"iso9660", 32769, "CD001", text(32808, 32)},
	{"apfs", 32, "NXSB", nil},
	{"ufs", 64<<10 + 1372, "\x19\x01\x54\x19", nil},
	{"refs", 3, "ReFS\x00", nil},
	{"hfs+", 1024, "H+\x00\x04", nil},
}

// fileSystem names what begins in b, or returns "".
func fileSystem(b []byte) string {
	for _, m := range magics {
		if string(cut(b, m.at, len(m.magic))) != m.magic {
			continue
		}
		if m.label != nil {
			if l := m.label(b); l != "" && l != "NO NAME" {
				return fmt.Sprintf("%s %q", m.name, l)
			}
		}
		return m.name
	}
	return ""
}

// text reads a label of at most n bytes that ends with a NUL or blanks; only what can be printed is kept.
func text(at, n int) func([]byte) string {
	return func(b []byte) string {
		s, _, _ := strings.Cut(string(cut(b, at, n)), "\x00")
		return clean(s)
	}
}

// clean makes what a device or a disk says about itself fit for a line of text.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	return strings.Join(strings.Fields(s), " ")
}

// cut returns b[at:at+n], or nothing when b is shorter.
func cut(b []byte, at, n int) []byte {
	if at < 0 || at+n > len(b) {
		return nil
	}
	return b[at : at+n]
}
