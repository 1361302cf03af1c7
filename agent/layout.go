package agent

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"path"

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

// tables decides on what is not an image's: the partition table of a tree, and that of a disk which is larger than its
// image. No table gives away what carte keeps.
func (w *work) tables(ctx context.Context, f *flash) (err error) {
	if w.orders.Form == lab.FormDisk {
		w.grown, err = f.amend(ctx, w.orders.Disk, w.orders.Tail.Offset, w.orders.Grow)
		return err
	}
	if f.tables, err = treeTables(w.orders.Disk, f.disk.Block(), w.orders.Compose.Scratch, w.orders.Writes...); err != nil || w.orders.Tail.None() {
		return err
	}
	head, at, backup, err := guard(f.tables[0].data, f.disk, w.orders.Tail.Offset, w.orders.Disk)
	if err != nil {
		return fmt.Errorf("keep the tail out of the partition table of %s: %w", f.name, errors.Join(err, lab.ErrInvalid))
	}
	f.tables[0].data, f.tables[1].off, f.tables[1].data = head, at, backup
	return nil
}

// parts checks the orders and fetches what they are made of.
func (w *work) parts(ctx context.Context) (all []part, err error) {
	o, end := w.orders, int64(0)
	room := o.Disk.Bytes
	if !o.Tail.None() {
		room = o.Tail.Offset
	}
	all = make([]part, len(o.Writes))
	for i, x := range o.Writes {
		if !layable(o.Form, x, i) {
			return nil, fmt.Errorf("boot %d: %s, image %d of %d, has the form %q in a system of the form %q: this agent does not know how to lay it out: %w", o.Boot, x.Ref, i+1, len(o.Writes), x.Form, o.Form, lab.ErrInvalid)
		}
		if x.Offset < end || x.Bytes <= 0 || x.Offset+x.Bytes < x.Offset || x.Offset+x.Bytes > room {
			return nil, fmt.Errorf("boot %d: %s at byte %d does not fit on disk %s: %w", o.Boot, x.Ref, x.Offset, o.Disk, lab.ErrInvalid)
		}
		end = x.Offset + x.Bytes
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("boot %d has no images: %w", o.Boot, lab.ErrInvalid)
	}
	if s := o.Compose.Scratch; s.Bytes != 0 && (o.Form != lab.FormTree || s.Offset < end || s.Bytes < 0 || s.Offset+s.Bytes < s.Offset || s.Offset+s.Bytes > room) {
		return nil, fmt.Errorf("boot %d: %d bytes for changes at byte %d do not fit on disk %s: %w", o.Boot, s.Bytes, s.Offset, o.Disk, lab.ErrInvalid)
	}
	for i, x := range o.Writes { // one after the other: each connection more costs more than the wait for an answer
		m, err := w.client.Manifest(ctx, x.Root, x.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", x.Ref, err)
		}
		all[i] = newPart(x, m)
	}
	return all, nil
}

// layable says whether the image that comes n-th, from 0, can be laid for a system of that form.
func layable(system lab.Form, x lab.Write, n int) bool {
	switch {
	case n == 0:
		return (system == lab.FormDisk || system == lab.FormTree) && (x.Form == system || x.Form == "")
	case system != lab.FormTree:
		return false
	}
	return x.Form == lab.FormKernel || x.Form == lab.FormFiles && (x.Place == "" || path.IsAbs(x.Place) && path.Clean(x.Place) == x.Place && x.Place != "/")
}
