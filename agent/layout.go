package agent

import (
	"crypto/sha256"
	"fmt"

	"carte/lab"
	"carte/lab/layout"
)

// The names of partitions: that of the tree, the beginning of those of the layers over it, and that of their changes.
const (
	basePartition    = "carte-base"
	layerPartition   = "carte-%d-%s" // its number, from 1, and its image
	scratchPartition = "carte-scratch"
)

// treeTables makes both copies of the partition table of a disk that holds a tree, the layers over it, and scratch where there
// is one, with blocks of that many bytes. The same disk and places give the same bytes, so that a second boot writes nothing;
// nothing random is in them.
func treeTables(id lab.DiskID, block int, scratch lab.Region, layers ...lab.Write) ([]table, error) {
	var all []layout.Entry
	add := func(name string, off, bytes int64) {
		all = append(all, layout.Entry{Off: off, Bytes: bytes, Type: layout.LinuxData, UUID: guid("partition "+name, id), Name: name})
	}
	end := layers[0]
	for i, x := range layers {
		name := basePartition
		if i > 0 {
			name = fmt.Sprintf(layerPartition, i, x.Ref.Name)
		}
		add(name, x.Offset, x.Bytes)
		end = x
	}
	if scratch.Bytes > 0 {
		add(scratchPartition, scratch.Offset, scratch.Bytes)
	}
	head, at, backup, err := layout.Make(id.Bytes, block, guid("disk", id), all...)
	if err != nil {
		return nil, fmt.Errorf("%s, %d bytes at byte %d, leaves no room for the partition table of disk %s: %w (%w)", end.Ref, end.Bytes, end.Offset, id, lab.ErrInvalid, err)
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
