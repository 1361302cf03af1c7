package agent

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"unicode/utf16"

	"carte/lab"
)

// The name of the partition that holds a tree.
const basePartition = "carte-base"

// A GUID partition table after UEFI 2.10, section 5: a protective MBR in block 0, a header in block 1, 128 entries of 128
// bytes behind it, and copies of both, entries first, at the end of the disk.
const (
	gptEntries    = 128
	gptEntrySize  = 128
	gptHeaderSize = 92
)

// linuxData is the type of a partition with a Linux file system, 0FC63DAF-8483-4772-8E79-3D69D8477DE4, as it lies on
// the disk.
var linuxData = [16]byte{0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4}

// treeTables makes both copies of the partition table of a disk that holds one tree, with blocks of that many bytes. The
// same disk and tree give the same bytes, so that a second boot writes nothing; nothing random is in them.
func treeTables(id lab.DiskID, block int, tree lab.Write) ([]table, error) {
	b := int64(block)
	total, entries := id.Bytes/b, gptEntries*gptEntrySize/b
	g := gpt{
		block: b, last: total - 1, entries: entries,
		first: tree.Offset / b, end: (tree.Offset+tree.Bytes+b-1)/b - 1,
		disk: guid("disk", id), partition: guid("partition "+basePartition, id),
	}
	if tree.Offset%b != 0 || g.first < 2+entries || g.end >= g.last-entries {
		return nil, fmt.Errorf("%s, %d bytes at byte %d, leaves no room for the partition table of disk %s: %w", tree.Ref, tree.Bytes, tree.Offset, id, lab.ErrInvalid)
	}
	array := g.array()
	var head, tail bytes.Buffer
	head.Write(g.protective())
	head.Write(g.header(1, g.last, 2, array))
	head.Write(array)
	tail.Write(array)
	tail.Write(g.header(g.last, 1, g.last-entries, array))
	return []table{
		{what: "partition table", off: 0, data: head.Bytes()},
		{what: "copy of the partition table", off: (g.last - entries) * b, data: tail.Bytes()},
	}, nil
}

// gpt is a table with one partition. All places are block numbers.
type gpt struct {
	block, last, entries int64 // bytes in a block; the last block; blocks that the entries take
	first, end           int64 // of the partition, both inside
	disk, partition      [16]byte
}

func (g gpt) protective() []byte {
	b := make([]byte, g.block)
	e := b[446:]
	copy(e, []byte{0, 0x00, 0x02, 0x00, 0xee, 0xff, 0xff, 0xff}) // not bootable, from sector 1, type EE, to the end
	binary.LittleEndian.PutUint32(e[8:], 1)
	binary.LittleEndian.PutUint32(e[12:], uint32(min(g.last, 0xffffffff)))
	b[510], b[511] = 0x55, 0xaa
	return b
}

func (g gpt) array() []byte {
	b := make([]byte, gptEntries*gptEntrySize)
	copy(b, linuxData[:])
	copy(b[16:], g.partition[:])
	binary.LittleEndian.PutUint64(b[32:], uint64(g.first))
	binary.LittleEndian.PutUint64(b[40:], uint64(g.end))
	for i, u := range utf16.Encode([]rune(basePartition)) {
		binary.LittleEndian.PutUint16(b[56+2*i:], u)
	}
	return b
}

// header makes the block at self, whose twin is at other and whose entries begin at entries.
func (g gpt) header(self, other, entries int64, array []byte) []byte {
	b := make([]byte, g.block)
	copy(b, "EFI PART")
	le := binary.LittleEndian
	le.PutUint32(b[8:], 0x00010000)
	le.PutUint32(b[12:], gptHeaderSize)
	le.PutUint64(b[24:], uint64(self))
	le.PutUint64(b[32:], uint64(other))
	le.PutUint64(b[40:], uint64(2+g.entries))
	le.PutUint64(b[48:], uint64(g.last-g.entries-1))
	copy(b[56:], g.disk[:])
	le.PutUint64(b[72:], uint64(entries))
	le.PutUint32(b[80:], gptEntries)
	le.PutUint32(b[84:], gptEntrySize)
	le.PutUint32(b[88:], crc32.ChecksumIEEE(array))
	le.PutUint32(b[16:], crc32.ChecksumIEEE(b[:gptHeaderSize])) // computed over a field of zeros
	return b
}

// guid derives an identifier of version 8 (RFC 9562: made by a rule of one's own) from what a disk is.
func guid(what string, id lab.DiskID) (g [16]byte) {
	sum := sha256.Sum256(fmt.Appendf(nil, "carte %s of %q %q %d", what, id.Serial, id.WWN, id.Bytes))
	copy(g[:], sum[:])
	g[7] = g[7]&0x0f | 0x80 // the third field lies on the disk low byte first
	g[8] = g[8]&0x3f | 0x80
	return g
}
