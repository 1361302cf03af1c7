package layout

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// TypeTail is the type of the partition that Guard adds.
const TypeTail = "carte tail"

// tailType is 9C2F1F4E-6B1A-4D0C-8A57-63617274650A as it lies on the disk; tailMBR is for "data without a file system".
var tailType = [16]byte{0x4e, 0x1f, 0x2f, 0x9c, 0x1a, 0x6b, 0x0c, 0x4d, 0x8a, 0x57, 'c', 'a', 'r', 't', 'e', '\n'}

const tailMBR = 0xda

// tailName is what people see.
const tailName = "carte-tail"

// Guard does what Amend does without a room, and puts a partition of its own over everything from byte from on, up to the end
// of what is usable. That is the stronger fence: growpart of cloud-utils, which cloud images run at every start, strikes the
// last usable block from the table before it grows a partition up to the next one or the end of the disk. id is the
// partition's GUID.
//
// The partition takes the last entry of the table, so that those that a user makes get the numbers that they would have had.
// In an MBR it takes entry 4, or the highest free one. ok is false where head has no table. The errors are Amend's, and
// ErrUnable where there is no free entry. Restore takes the partition away again.
func Guard(head []byte, block int, disk, from int64, id [16]byte) (guarded []byte, backupAt int64, backup []byte, ok bool, err error) {
	g, err := headGPT(head, block)
	if err != nil {
		return head, 0, nil, false, err
	}
	if g == nil {
		guarded, ok, err = guardMBR(head, int64(block), disk, from)
		return guarded, 0, nil, ok, err
	}
	if err := g.stretch(disk, from); err != nil {
		return head, 0, nil, false, err
	}
	first := (from + g.block - 1) / g.block
	g.last = disk/g.block - 2 - g.entryBlocks
	i := g.number - 1
	for ; i >= 0 && !isZero(g.entries[i*g.size:][:g.size]); i-- {
	}
	switch {
	case i < 0:
		return head, 0, nil, false, fmt.Errorf("all %d entries of the partition table are taken: %w", g.number, ErrUnable)
	case first > g.last:
		return head, 0, nil, false, fmt.Errorf("nothing is usable from byte %d on: %w", from, ErrUnable)
	}
	e := g.entries[i*g.size:][:g.size]
	le := binary.LittleEndian
	copy(e, tailType[:])
	copy(e[16:], id[:])
	le.PutUint64(e[32:], uint64(first))
	le.PutUint64(e[40:], uint64(g.last))
	le.PutUint64(e[48:], 1|1<<63) // the machine needs it; not to be mounted by itself
	for j, c := range []byte(tailName) {
		e[56+2*j] = c
	}
	guarded = g.amend(head, disk)
	backupAt, backup = g.backup(disk / g.block)
	return guarded, backupAt, backup, true, nil
}

// dropTail takes the partition of Guard away. The entries are g's own then.
func (g *gpt) dropTail() {
	g.entries = append([]byte(nil), g.entries...)
	for i := range g.number {
		if e := g.entries[i*g.size:][:g.size]; bytes.Equal(e[:16], tailType[:]) {
			clear(e)
		}
	}
}

// tableMBR reads the MBR in the first bytes of a disk; ok is false where there is none.
func tableMBR(head []byte) (m mbr, ok bool) {
	s := &source{r: bytes.NewReader(head), size: int64(len(head))}
	m, signed := s.mbr()
	return m, signed && m.sane && !m.protective && !bootSector(head)
}

func guardMBR(head []byte, block, disk, from int64) ([]byte, bool, error) {
	b, _ := dropTailMBR(head)
	m, ok := tableMBR(b)
	if !ok || len(m.entries) == 0 {
		return head, false, nil
	}
	start, end := (from+block-1)/block, min(disk/block, 1<<32-1)
	slot := 0
	for i := range 4 {
		if isZero(b[446+16*i:][:16]) {
			slot = i + 1
		}
	}
	for _, e := range m.entries {
		if short := (e.start + e.count - from/block) * block; short > 0 {
			return head, false, &ShortError{What: fmt.Sprintf("partition %d", e.number), Short: short}
		}
	}
	if slot == 0 || start >= end {
		return head, false, fmt.Errorf("no entry of the partition table can name what lies from byte %d on: %w", from, ErrUnable)
	}
	e := b[446+16*(slot-1):][:16]
	copy(e, []byte{0, 0xfe, 0xff, 0xff, tailMBR, 0xfe, 0xff, 0xff})
	binary.LittleEndian.PutUint32(e[8:], uint32(start))
	binary.LittleEndian.PutUint32(e[12:], uint32(end-start))
	return b, true, nil
}

// dropTailMBR returns head without the partition of Guard, and whether there was one.
func dropTailMBR(head []byte) (b []byte, had bool) {
	b = append([]byte(nil), head...)
	if _, ok := tableMBR(head); !ok {
		return b, false
	}
	for i := range 4 {
		if e := b[446+16*i:][:16]; bytes.Equal(e[:8], []byte{0, 0xfe, 0xff, 0xff, tailMBR, 0xfe, 0xff, 0xff}) {
			clear(e)
			had = true
		}
	}
	return b, had
}
