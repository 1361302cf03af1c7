package layout

import (
	"encoding/binary"
	"fmt"
	"unicode/utf16"
)

// LinuxData is the type of a partition with a Linux file system, 0FC63DAF-8483-4772-8E79-3D69D8477DE4, as it lies on the disk.
var LinuxData = [16]byte{0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4}

// An Entry is a partition of a table to be made. The last block that it touches is its own.
type Entry struct {
	Off, Bytes int64 // Off is a multiple of the block
	Type, UUID [16]byte
	Name       string // at most 36 UTF-16 units; the rest is cut off
}

// Make makes a GPT with 128 entries for a disk of disk bytes: head for its first bytes, and backup for byte backupAt. The
// same arguments give the same bytes. A *ShortError says what does not fit.
func Make(disk int64, block int, id [16]byte, entries ...Entry) (head []byte, backupAt int64, backup []byte, err error) {
	const number, size = 128, 128
	b := int64(block)
	g := gpt{header: make([]byte, gptHeader), block: b, array: 2, number: number, size: size, entries: make([]byte, number*size), entryBlocks: number * size / b}
	le := binary.LittleEndian
	copy(g.header, gptMagic)
	le.PutUint32(g.header[8:], 0x00010000)
	le.PutUint32(g.header[12:], gptHeader)
	copy(g.header[56:], id[:])
	le.PutUint32(g.header[80:], number)
	le.PutUint32(g.header[84:], size)
	g.first = 2 + g.entryBlocks
	for i, p := range entries {
		if i >= number || p.Off%b != 0 || p.Off < g.first*b || p.Bytes <= 0 || isZero(p.Type[:]) {
			return nil, 0, nil, fmt.Errorf("partition %d, %d bytes at byte %d: %w", i+1, p.Bytes, p.Off, ErrUnable)
		}
		e := g.entries[i*size:][:size]
		copy(e, p.Type[:])
		copy(e[16:], p.UUID[:])
		le.PutUint64(e[32:], uint64(p.Off/b))
		le.PutUint64(e[40:], uint64((p.Off+p.Bytes+b-1)/b-1))
		for j, u := range utf16.Encode([]rune(p.Name)) {
			if j < 36 {
				le.PutUint16(e[56+2*j:], u)
			}
		}
	}
	if err := g.stretch(disk, 0); err != nil {
		return nil, 0, nil, err
	}
	total := disk / b
	head = append(protective(block, total-1), g.lay(1, total-1, g.array)...)
	head = append(head, g.entries...)
	backupAt, backup = g.backup(total)
	return head, backupAt, backup, nil
}

// protective is the first block of a disk with a GPT: not bootable, one partition of type EE from block 1 to block last.
func protective(block int, last int64) []byte {
	b := make([]byte, block)
	e := b[446:]
	copy(e, []byte{0, 0x00, 0x02, 0x00, 0xee, 0xff, 0xff, 0xff})
	binary.LittleEndian.PutUint32(e[8:], 1)
	binary.LittleEndian.PutUint32(e[12:], uint32(min(last, 0xffffffff)))
	b[510], b[511] = 0x55, 0xaa
	return b
}
