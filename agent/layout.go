package agent

import (
	"crypto/sha256"
	"fmt"

	"carte/lab"
	"carte/lab/layout"
)

// The name of the partition that holds a tree.
const basePartition = "carte-base"

// treeTables makes both copies of the partition table of a disk that holds one tree, with blocks of that many bytes. The
// same disk and tree give the same bytes, so that a second boot writes nothing; nothing random is in them.
func treeTables(id lab.DiskID, block int, tree lab.Write) ([]table, error) {
	head, at, backup, err := layout.Make(id.Bytes, block, guid("disk", id), layout.Entry{
		Off: tree.Offset, Bytes: tree.Bytes, Type: layout.LinuxData, UUID: guid("partition "+basePartition, id), Name: basePartition,
	})
	if err != nil {
		return nil, fmt.Errorf("%s, %d bytes at byte %d, leaves no room for the partition table of disk %s: %w (%w)", tree.Ref, tree.Bytes, tree.Offset, id, lab.ErrInvalid, err)
	}
	return []table{
		{what: "partition table", off: 0, data: head},
		{what: "copy of the partition table", off: at, data: backup},
	}, nil
}

// guid derives an identifier of version 8 (RFC 9562: made by a rule of one's own) from what a disk is.
func guid(what string, id lab.DiskID) (g [16]byte) {
	sum := sha256.Sum256(fmt.Appendf(nil, "carte %s of %q %q %d", what, id.Serial, id.WWN, id.Bytes))
	copy(g[:], sum[:])
	g[7] = g[7]&0x0f | 0x80 // the third field lies on the disk low byte first
	g[8] = g[8]&0x3f | 0x80
	return g
}
