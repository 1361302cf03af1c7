package layout

import (
	"encoding/binary"
	"fmt"
)

// growUnit is what the end of a partition that grows is a multiple of, as all tools make them.
const growUnit = 1 << 20

// Amend makes the head of an image with a GPT into the head of a disk of disk bytes: the backup goes to the real end, and no
// partition may reach beyond byte room (0: whatever the backup leaves), which is what keeps tools that grow a partition off
// what lies behind. head is the first bytes of the image, 256 KiB at most; block the length of the disk's blocks.
//
// amended is as long as head; backup is to be written at backupAt, entries first, then the header. ok is false where head has
// no GPT with such blocks: amended is then head, unchanged. The same arguments give the same bytes. Where the protective
// entry of the first block covered the whole image, it then covers the disk, as sgdisk -e makes it.
//
// The error is a *ShortError where a partition reaches beyond room, with what is missing, ErrDamaged where the table is, and
// ErrUnable where its entries do not lie in head.
//
// sfdisk, fdisk and sgdisk keep to room. growpart does not; see Guard. A partition that Guard had added is taken away first.
func Amend(head []byte, block int, disk, room int64) (amended []byte, backupAt int64, backup []byte, ok bool, err error) {
	g, err := headGPT(head, block)
	if g == nil || err != nil {
		return head, 0, nil, false, err
	}
	if err := g.stretch(disk, room); err != nil {
		return head, 0, nil, false, err
	}
	amended = g.amend(head, disk)
	backupAt, backup = g.backup(disk / g.block)
	return amended, backupAt, backup, true, nil
}

// Restore goes the other way: the head of a disk becomes the head of an image of image bytes, whose backup lies at its end
// and whose usable range is all that there is; a partition that Guard had added is taken away, also from an MBR. Where the
// image's head was so before Amend or Guard, which is how all tools make it, the bytes are the same as then; a last usable
// block that somebody had chosen otherwise is not known any more. ok is false where nothing had to be done.
func Restore(head []byte, block int, image int64) (restored, backup []byte, backupAt int64, ok bool, err error) {
	g, err := headGPT(head, block)
	if err != nil {
		return head, nil, 0, false, err
	}
	if g == nil {
		restored, ok = dropTailMBR(head)
		return restored, nil, 0, ok, nil
	}
	if err := g.stretch(image, 0); err != nil {
		return head, nil, 0, false, err
	}
	backupAt, backup = g.backup(image / g.block)
	return g.amend(head, image), backup, backupAt, true, nil
}

// GrowLast does what Amend does, and extends the partition that ends last up to the last usable block, to an end at a whole
// MiB; it never shrinks one. part is that partition as it is then. It works on an MBR, too, whose only change is the entry:
// backup is then empty. Without a table, with no partition in it, and where the last one is a logical one, the error is ErrUnable.
func GrowLast(head []byte, block int, disk, room int64) (amended []byte, backupAt int64, backup []byte, part Partition, err error) {
	g, err := headGPT(head, block)
	if err != nil {
		return head, 0, nil, part, err
	}
	if g == nil {
		amended, part, err = growMBR(head, int64(block), disk, room)
		return amended, 0, nil, part, err
	}
	if err := g.stretch(disk, room); err != nil {
		return head, 0, nil, part, err
	}
	most, at := int64(-1), -1
	for i := range g.number {
		if _, last, ok := g.entry(i); ok && last > most {
			most, at = last, i
		}
	}
	if at < 0 {
		return head, 0, nil, part, fmt.Errorf("grow the last partition: there is none: %w", ErrUnable)
	}
	g.entries = append([]byte(nil), g.entries...)
	end := max(most, (g.last+1)*g.block/growUnit*growUnit/g.block-1)
	binary.LittleEndian.PutUint64(g.entries[at*g.size+40:], uint64(end))
	for _, p := range g.parts() {
		if p.Number == at+1 {
			part = p
		}
	}
	amended = g.amend(head, disk)
	backupAt, backup = g.backup(disk / g.block)
	return amended, backupAt, backup, part, nil
}

// headGPT reads the GPT in the first bytes of a disk; nil where there is none. What Guard added for that disk is left out.
func headGPT(head []byte, block int) (*gpt, error) {
	if block < 512 || block > 1<<16 || block&(block-1) != 0 {
		return nil, fmt.Errorf("blocks of %d bytes: %w", block, ErrUnable)
	}
	b := cut(head, block, block)
	if b == nil || string(b[:8]) != gptMagic {
		return nil, nil
	}
	g, err := parseGPT(b, 1)
	if err != nil {
		return nil, err
	}
	at := g.array * g.block
	if at+int64(g.number*g.size) > int64(len(head)) {
		return nil, fmt.Errorf("the entries of the partition table lie at byte %d, behind the first %d bytes: %w", at, len(head), ErrUnable)
	}
	if err := g.setEntries(cut(head, int(at), g.number*g.size)); err != nil {
		return nil, err
	}
	g.dropTail()
	return g, nil
}

// stretch sets the usable range for a disk, and refuses what does not fit.
func (g *gpt) stretch(disk, room int64) error {
	limit := disk/g.block - 1 - g.entryBlocks // of the usable blocks, outside
	if room > 0 {
		limit = min(limit, room/g.block)
	}
	end, number := int64(0), 0
	for _, p := range g.parts() {
		if p.Off+p.Bytes > end {
			end, number = p.Off+p.Bytes, p.Number
		}
	}
	if short := end - limit*g.block; number > 0 && short > 0 {
		return &ShortError{What: fmt.Sprintf("partition %d", number), Short: short}
	}
	if limit <= g.first {
		return &ShortError{What: "the partition table", Short: (g.first + 1 - limit) * g.block}
	}
	g.last = limit - 1
	return nil
}

// amend returns head with the table as it is in g.
func (g *gpt) amend(head []byte, disk int64) []byte {
	b := append([]byte(nil), head...)
	total, was := disk/g.block, g.other
	copy(b[g.block:], g.lay(1, total-1, g.array)[:len(g.header)])
	copy(b[g.array*g.block:], g.entries)
	le := binary.LittleEndian
	for i := range 4 {
		e := b[446+16*i:][:16]
		covers := e[4] == 0xee && le.Uint32(e[8:]) == 1 && int64(le.Uint32(e[12:])) == min(was, 0xffffffff)
		if covers && b[510] == 0x55 && b[511] == 0xaa {
			le.PutUint32(e[12:], uint32(min(total-1, 0xffffffff)))
		}
	}
	return b
}

// growMBR extends the last partition of an MBR.
func growMBR(head []byte, block, disk, room int64) ([]byte, Partition, error) {
	head, _ = dropTailMBR(head)
	m, ok := tableMBR(head)
	if !ok {
		return head, Partition{}, fmt.Errorf("grow the last partition: there is no partition table with blocks of %d bytes: %w", block, ErrUnable)
	}
	var last mbrEntry
	for _, e := range m.entries {
		if e.start+e.count > last.start+last.count {
			last = e
		}
	}
	limit := min(disk/block, 1<<32-1)
	if room > 0 {
		limit = min(limit, room/block)
	}
	switch end := last.start + last.count; {
	case last.number == 0:
		return head, Partition{}, fmt.Errorf("grow the last partition: there is none: %w", ErrUnable)
	case end > limit:
		return head, Partition{}, &ShortError{What: fmt.Sprintf("partition %d", last.number), Short: (end - limit) * block}
	case extended(last.kind):
		return head, Partition{}, fmt.Errorf("grow the last partition: it is a logical one, in extended partition %d: %w", last.number, ErrUnable)
	}
	last.count = max(last.count, limit*block/growUnit*growUnit/block-last.start)
	b := append([]byte(nil), head...)
	e := b[446+16*(last.number-1):][:16]
	if was := int64(binary.LittleEndian.Uint32(e[12:])); was != last.count {
		binary.LittleEndian.PutUint32(e[12:], uint32(last.count))
		copy(e[5:8], "\xfe\xff\xff") // cylinder, head and sector of the end: too far for them
	}
	return b, Partition{Number: last.number, Off: last.start * block, Bytes: last.count * block, Type: mbrType(last.kind)}, nil
}
