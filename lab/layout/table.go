package layout

import (
	"encoding/binary"
	"fmt"
	"io"
)

// A Table is a partition table. Places are in bytes.
type Table struct {
	Kind        string      // "gpt", "mbr", or "" where there is none
	Block       int         // bytes in the blocks that the table counts in: 512 or 4096
	ID          string      // the disk's GUID, or eight hexadecimal digits of an MBR
	Parts       []Partition // in the order of the table, without empty entries; the logical ones of an MBR last
	First, Last int64       // a GPT's usable range: its first byte, and the byte after its last
	Copy        int64       // where a GPT's backup header is
	CopyBytes   int64       // what a GPT's backup takes, entries and header
	Backup      bool        // the first copy is damaged or gone, and this is what the backup says
	Note        string      // what is odd, in words: damage above all
}

// A Partition is one entry of a table.
type Partition struct {
	Number     int // as the system counts, from 1; the logical ones of an MBR from 5
	Off, Bytes int64
	Type       string // "EFI system", "Linux", ..., or the type's GUID or hexadecimal byte
	Name       string // GPT only; it may hold anything
	UUID       string // GPT only
}

// Names of types that others ask for.
const (
	TypeESP      = "EFI system"
	TypeExtended = "extended" // the box around an MBR's logical partitions; it overlaps them
)

// End returns the byte after all that the table needs: the end of its last partition, and for a GPT room for the backup. The
// partition that Guard adds is carte's and not the table's.
func End(t Table) int64 {
	end := int64(0)
	if t.Kind == "gpt" {
		end = t.First
	} else if t.Kind == "mbr" {
		end = int64(t.Block)
	}
	for _, p := range t.Parts {
		if p.Type != TypeTail {
			end = max(end, p.Off+p.Bytes)
		}
	}
	return end + t.CopyBytes
}

// ReadTable reads the partition table of a disk of size bytes. Whatever is on the disk, it ends, and takes at most a few MiB
// of memory; the error is one of r. No table is Kind "". A table that is there and cannot be used has no partitions and a
// Note.
//
// As the kernel does, it believes a first block with partitions and without a protective entry rather than a GPT behind it.
// A first block that is the boot sector of a file system is no table.
func ReadTable(r io.ReaderAt, size int64) (Table, error) {
	s := &source{r: r, size: size}
	t := s.table()
	return t, s.err
}

func (s *source) table() Table {
	m, signed := s.mbr()
	filled := func() bool { return len(s.identify(0, s.size)) > 0 }
	if signed && !m.protective && len(m.entries) > 0 {
		if m.sane && !bootSector(s.at(0, 512)) {
			return s.mbrTable(m)
		}
		return Table{}
	}
	var seen int
	for _, block := range []int{512, 4096} {
		b := s.whole(int64(block), block)
		if b == nil || string(b[:8]) != gptMagic {
			continue
		}
		g, err := parseGPT(b, 1)
		if err == nil {
			err = s.entries(g)
		}
		if err == nil {
			return g.table(m)
		}
		if seen == 0 {
			seen = block
		}
	}
	if seen != 0 || m.protective || !filled() {
		for _, block := range []int{512, 4096} {
			if t, ok := s.backup(block); ok && (seen == 0 || seen == block) {
				return t
			}
		}
	}
	switch {
	case s.err != nil:
		return Table{}
	case seen != 0:
		return Table{Kind: "gpt", Block: seen, Note: "the partition table is damaged, and so is its copy"}
	case m.protective:
		return Table{Kind: "gpt", Block: 512, Note: "the partition table is gone, and so is its copy"}
	case signed && m.sane && !bootSector(s.at(0, 512)) && !filled():
		return s.mbrTable(m)
	}
	return Table{}
}

// backup reads the GPT from the end of the disk.
func (s *source) backup(block int) (Table, bool) {
	last := s.size/int64(block) - 1
	b := s.whole(last*int64(block), block)
	if b == nil || last < 2 || string(b[:8]) != gptMagic {
		return Table{}, false
	}
	g, err := parseGPT(b, uint64(last))
	if err != nil || s.entries(g) != nil {
		return Table{}, false
	}
	t := g.table(mbr{})
	t.Copy, t.Backup = last*int64(block), true
	t.Note = "the partition table is damaged; this is what its copy at the end says"
	return t, true
}

// An mbr is what the first block says (no standard; what every system reads).
type mbr struct {
	entries    []mbrEntry // without empty ones
	protective bool       // one of them stands for a GPT
	sane       bool       // the boot flags are boot flags, not text or code
	id         string
}

type mbrEntry struct {
	number       int
	kind         byte
	start, count int64 // in blocks
}

func (s *source) mbr() (m mbr, signed bool) {
	b := s.whole(0, 512)
	if b == nil || b[510] != 0x55 || b[511] != 0xaa {
		return mbr{}, false
	}
	m.entries, m.sane = mbrEntries(b)
	for _, e := range m.entries {
		m.protective = m.protective || e.kind == 0xee
	}
	m.id = fmt.Sprintf("%08x", binary.LittleEndian.Uint32(b[440:]))
	return m, true
}

// mbrEntries reads the four entries of a block.
func mbrEntries(b []byte) (es []mbrEntry, sane bool) {
	sane = true
	for i := range 4 {
		e := b[446+16*i:][:16]
		sane = sane && e[0]&0x7f == 0
		x := mbrEntry{i + 1, e[4], int64(binary.LittleEndian.Uint32(e[8:])), int64(binary.LittleEndian.Uint32(e[12:]))}
		if x.kind != 0 && x.count != 0 {
			es = append(es, x)
		}
	}
	return es, sane
}

// mbrTable makes places of m. Nothing in an MBR says how long its blocks are: 4096 bytes are believed only where file systems
// begin at the places that this gives, and none where blocks of 512 put them.
func (s *source) mbrTable(m mbr) Table {
	t := s.mbrParts(m, 512)
	if len(t.Parts) == 0 || s.found(t) {
		return t
	}
	if u := s.mbrParts(m, 4096); s.found(u) {
		return u
	}
	return t
}

func (s *source) found(t Table) bool {
	for _, p := range t.Parts {
		if p.Type != TypeExtended && len(s.identify(p.Off, p.Bytes)) > 0 {
			return true
		}
	}
	return false
}

func (s *source) mbrParts(m mbr, block int64) Table {
	t := Table{Kind: "mbr", Block: int(block), ID: m.id, First: block, Last: min(s.size, 1<<32*block)}
	var logical []Partition
	for _, e := range m.entries {
		t.Parts = append(t.Parts, Partition{Number: e.number, Off: e.start * block, Bytes: e.count * block, Type: mbrType(e.kind)})
		if extended(e.kind) && logical == nil {
			var whole bool
			if logical, whole = s.logical(e, block); !whole {
				t.Note = "the chain of logical partitions is broken"
			}
		}
	}
	t.Parts = append(t.Parts, logical...)
	return t
}

func extended(kind byte) bool { return kind == 0x05 || kind == 0x0f || kind == 0x85 }

// logical follows the chain of blocks in the extended partition box: each holds a partition, whose start counts from that
// block, and the place of the next block, which counts from the box. whole is false where the chain breaks off or never ends.
func (s *source) logical(box mbrEntry, block int64) (parts []Partition, whole bool) {
	const most = 128
	at := box.start
	for n := 0; n < most; n++ {
		b := s.whole(at*block, 512)
		if b == nil || b[510] != 0x55 || b[511] != 0xaa {
			return parts, false
		}
		es, _ := mbrEntries(b)
		next := int64(0)
		for _, e := range es {
			switch {
			case e.number > 2: // not used; some tools leave rubbish here
			case extended(e.kind):
				next = box.start + e.start
			case at+e.start+e.count <= box.start+box.count:
				parts = append(parts, Partition{Number: 5 + len(parts), Off: (at + e.start) * block, Bytes: e.count * block, Type: mbrType(e.kind)})
			default:
				return parts, false
			}
		}
		if next == 0 {
			return parts, true
		}
		if next >= box.start+box.count {
			return parts, false
		}
		at = next
	}
	return parts, false
}
