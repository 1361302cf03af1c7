package agent

import (
	"context"
	"errors"
	"fmt"

	"carte/lab"
	"carte/lab/chunk"
	"carte/lab/layout"
)

// amend fits the partition table of a whole-disk image to a larger disk: a GPT's backup goes to the disk's real end, and a
// partition of carte's own covers all from byte room on, so that whatever tool a guest grows its own with, it stops there. A
// room of 0 keeps nothing. Where grow says so, the last partition takes what room there is; it is returned. The head of the
// disk is then a table of its own and no longer a chunk of the image. A disk whose head is right already costs nothing but
// the reading of it.
func (f *flash) amend(ctx context.Context, id lab.DiskID, room int64, grow bool) (grown layout.Partition, err error) {
	p := &f.parts[0]
	if p.Offset != 0 || p.IDs[0].Implied() || p.Size >= f.disk.Size() {
		return grown, nil
	}
	head, fetched, err := f.head(ctx, p)
	if err != nil {
		return grown, err
	}
	fit, at, backup, ok, err := layout.Amend(head, f.disk.Block(), f.disk.Size(), room)
	if grow && err == nil {
		fit, at, backup, grown, err = layout.GrowLast(head, f.disk.Block(), f.disk.Size(), room)
		ok = true
	}
	if ok && err == nil && room > 0 && len(backup) > 0 { // without a GPT, what no partition has is left alone
		fit, at, backup, err = guard(fit, f.disk, room, id)
	}
	if err == nil && len(backup) > 0 && at < p.Size {
		err, grown = fmt.Errorf("the copy of the table needs %s behind the image, and there are %d bytes: %w", lab.Bytes(int64(len(backup))), f.disk.Size()-p.Size, layout.ErrUnable), layout.Partition{}
	}
	short := (*layout.ShortError)(nil)
	switch {
	case errors.As(err, &short):
		return grown, fmt.Errorf("%s on %s: %w; nothing was written: %w", p.Ref, f.name, err, lab.ErrRefused)
	case err != nil && grow:
		return grown, fmt.Errorf("%s on %s: %w: %w", p.Ref, f.name, err, lab.ErrInvalid)
	case err != nil: // it starts as it does anywhere, or not
		f.say("the partition table of %s stays as it is: %v", p.Ref, err)
		ok = false
	}
	p.state[0] = same // by the tables from here on, or as it was just read
	if !ok && !fetched {
		return grown, nil
	}
	f.tables = append(f.tables, table{what: "head of " + p.Ref.String(), off: 0, data: fit})
	if ok && len(backup) > 0 {
		f.tables = append(f.tables, table{what: "copy of the partition table", off: at, data: backup})
	}
	return grown, nil
}

// head returns the first chunk of an image: from the disk, where it is or was amended to fit there, else from wherever
// chunks come from.
func (f *flash) head(ctx context.Context, p *part) (head []byte, fetched bool, err error) {
	n, id := p.Len(0), p.IDs[0]
	have := aligned(n)
	if err := f.readAt(have, 0); err != nil {
		return nil, false, err
	}
	if chunk.Sum(have) == id {
		return have, false, nil
	}
	if was, _, _, ok, err := layout.Restore(have, f.disk.Block(), p.Size); ok && err == nil && chunk.Sum(was) == id {
		return was, false, nil
	}
	if head, err = f.one(ctx, id, n); err != nil {
		return nil, false, fmt.Errorf("the head of %s: %w", p.Ref, err)
	}
	return head, true, nil
}

// guard puts carte's own partition into the head of a disk, from byte room on. A table that has no entry left keeps at least
// tools that heed its last usable block off.
func guard(head []byte, d Disk, room int64, id lab.DiskID) (guarded []byte, at int64, backup []byte, err error) {
	guarded, at, backup, ok, err := layout.Guard(head, d.Block(), d.Size(), room, guid("tail", id))
	if errors.Is(err, layout.ErrUnable) {
		guarded, at, backup, ok, err = layout.Amend(head, d.Block(), d.Size(), room)
	}
	if err == nil && !ok {
		panic("BUG: a partition table that is none")
	}
	return guarded, at, backup, err
}
