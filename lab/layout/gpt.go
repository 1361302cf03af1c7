package layout

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"unicode/utf16"
)

// A GUID partition table after UEFI 2.10, section 5.3: a protective MBR in block 0, a header in block 1, entries behind it, and
// copies of both, entries first, at the end of the disk.
const (
	gptMagic    = "EFI PART"
	gptHeader   = 92      // bytes that every header has
	gptArray    = 1 << 20 // no array of entries is longer; 16 KiB is usual
	gptMaxBlock = 1 << 40 // no block number is higher
)

// gpt is one copy of a table. All places are block numbers.
type gpt struct {
	header       []byte // as long as it says itself
	block        int64  // bytes in a block
	self, other  int64  // where this header and its twin are
	first, last  int64  // usable blocks, both inside
	array        int64  // where the entries begin
	number, size int    // of entries, bytes in each
	entries      []byte // number*size bytes
	sum          uint32 // of entries, as the header says
	disk         [16]byte
	entryBlocks  int64 // blocks that the entries take
}

// parseGPT reads the header in the block b, which is block self of the disk. The entries are not read.
func parseGPT(b []byte, self uint64) (*gpt, error) {
	le := binary.LittleEndian
	n := le.Uint32(b[12:])
	if string(b[:8]) != gptMagic || n < gptHeader || int(n) > len(b) {
		return nil, fmt.Errorf("the header of the partition table: %w", ErrDamaged)
	}
	g := &gpt{header: append([]byte(nil), b[:n]...), block: int64(len(b))}
	if sumHeader(g.header) != le.Uint32(b[16:]) || le.Uint64(b[24:]) != self {
		return nil, fmt.Errorf("the header of the partition table (check sum): %w", ErrDamaged)
	}
	for at, place := range map[int]*int64{24: &g.self, 32: &g.other, 40: &g.first, 48: &g.last, 72: &g.array} {
		v := le.Uint64(b[at:])
		if v > gptMaxBlock {
			return nil, fmt.Errorf("the header of the partition table (block %d): %w", v, ErrDamaged)
		}
		*place = int64(v)
	}
	number, size := le.Uint32(b[80:]), le.Uint32(b[84:])
	if number == 0 || number > gptArray/128 || size < 128 || size > 4096 || number*size > gptArray {
		return nil, fmt.Errorf("the header of the partition table (%d entries of %d bytes): %w", number, size, ErrDamaged)
	}
	g.number, g.size, g.sum = int(number), int(size), le.Uint32(b[88:])
	g.entryBlocks = (int64(number*size) + g.block - 1) / g.block
	copy(g.disk[:], b[56:])
	return g, nil
}

// sumHeader is computed with zeros in its own place.
func sumHeader(h []byte) uint32 {
	sum := crc32.ChecksumIEEE(h[:16])
	sum = crc32.Update(sum, crc32.IEEETable, make([]byte, 4))
	return crc32.Update(sum, crc32.IEEETable, h[20:])
}

// setEntries takes the entries, which must be what the header says.
func (g *gpt) setEntries(b []byte) error {
	if len(b) != g.number*g.size || crc32.ChecksumIEEE(b) != g.sum {
		return fmt.Errorf("the entries of the partition table (check sum): %w", ErrDamaged)
	}
	g.entries = b
	return nil
}

func (s *source) entries(g *gpt) error { return g.setEntries(s.at(g.array*g.block, g.number*g.size)) }

// entry returns entry i of the table, counted from 0, and false for an empty one and one without sense.
func (g *gpt) entry(i int) (first, last int64, ok bool) {
	e := g.entries[i*g.size:][:g.size]
	a, b := binary.LittleEndian.Uint64(e[32:]), binary.LittleEndian.Uint64(e[40:])
	if isZero(e[:16]) || a > b || b > gptMaxBlock {
		return 0, 0, false
	}
	return int64(a), int64(b), true
}

// parts lists the entries that are in use.
func (g *gpt) parts() []Partition {
	var parts []Partition
	for i := range g.number {
		if first, last, ok := g.entry(i); ok {
			e := g.entries[i*g.size:]
			parts = append(parts, Partition{
				Number: i + 1, Off: first * g.block, Bytes: (last - first + 1) * g.block,
				Type: gptType(e), Name: utf16Text(e[56:128]), UUID: guid(e[16:]),
			})
		}
	}
	return parts
}

// table says what g says. m is the block before it: a hybrid one names partitions to systems that do not know a GPT.
func (g *gpt) table(m mbr) Table {
	t := Table{
		Kind: "gpt", Block: int(g.block), ID: guid(g.disk[:]), Parts: g.parts(), First: g.first * g.block, Last: (g.last + 1) * g.block,
		Copy: g.other * g.block, CopyBytes: (g.entryBlocks + 1) * g.block,
	}
	for _, e := range m.entries {
		known := e.kind == 0xee
		for _, p := range t.Parts {
			known = known || p.Off == e.start*g.block && p.Bytes == e.count*g.block
		}
		if !known {
			t.Note = fmt.Sprintf("its first block names a partition at byte %d that the table does not", e.start*g.block)
		}
	}
	return t
}

// lay writes the header anew, with its check sums, for a place of its own.
func (g *gpt) lay(self, other, array int64) []byte {
	b := make([]byte, g.block)
	copy(b, g.header)
	le := binary.LittleEndian
	le.PutUint64(b[24:], uint64(self))
	le.PutUint64(b[32:], uint64(other))
	le.PutUint64(b[40:], uint64(g.first))
	le.PutUint64(b[48:], uint64(g.last))
	le.PutUint64(b[72:], uint64(array))
	le.PutUint32(b[88:], crc32.ChecksumIEEE(g.entries))
	le.PutUint32(b[16:], sumHeader(b[:len(g.header)]))
	return b
}

// backup returns what is to lie at the end of a disk of total blocks: the entries, then the header.
func (g *gpt) backup(total int64) (at int64, b []byte) {
	array := total - 1 - g.entryBlocks
	b = make([]byte, g.entryBlocks*g.block)
	copy(b, g.entries)
	return array * g.block, append(b, g.lay(total-1, 1, array)...)
}

// guid writes the mixed-endian form that GPT uses.
func guid(b []byte) string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
}

func utf16Text(b []byte) string {
	var u []uint16
	for ; len(b) >= 2 && (b[0] != 0 || b[1] != 0); b = b[2:] {
		u = append(u, binary.LittleEndian.Uint16(b))
	}
	return string(utf16.Decode(u))
}
