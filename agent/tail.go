package agent

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"carte/lab"
	"carte/lab/chunk"
	"carte/lab/ext4"
)

// tail is carte's own region at the end of a disk, open. Its last page says what it is:
//
//	0   16 bytes  magic, with the version of the format
//	16   8 bytes  where the tail begins on the disk, little endian as all numbers
//	24   8 bytes  its length
//	32  16 bytes  the machine image's beginning and length
//	48  16 bytes  the cache's
//	64  32 bytes  BLAKE3 of the disk's serial number, world-wide name and size
//	96  32 bytes  BLAKE3 of the page, computed over a field of zeros
//
// and so it follows from the disk and the place alone. A page that differs in anything is another tail's, or none's.
type tail struct {
	lab.DiskTail
	Made  string // why it was made anew; empty: it was there, and was kept
	cache *cache
}

const tailMagic = "carte.tail.1\n\x00\x00\x00"

// openTail opens the tail of the disk with that name. One that is not there, or is another disk's, or lay elsewhere, is made
// anew: an empty machine image, an empty cache, and the page that says so, in this order, so that a power cut leaves
// something that is made anew again. Nothing outside the tail is read or written. The caller closes the cache, then the
// disk.
//
// lab.ErrInvalid: a tail that is none, or that is not on the disk.
func openTail(d Disk, t lab.DiskTail, id lab.DiskID) (*tail, error) {
	if t.Offset < 0 || t.Bytes < lab.TailLeast || t.Offset > d.Size()-t.Bytes {
		return nil, fmt.Errorf("a tail of %d bytes at byte %d of disk %s of %d bytes: %w", t.Bytes, t.Offset, id, d.Size(), lab.ErrInvalid)
	}
	page, want := aligned(lab.TailHeader), tailPage(t, id)
	made := ""
	if _, err := d.ReadAt(page, t.Header()); err != nil {
		made = fmt.Sprintf("its last page cannot be read (%v)", err)
	} else if !bytes.Equal(page, want) {
		made = otherTail(page, want)
	}
	off, n := t.Cache()
	if made != "" {
		if err := makeTail(d, t, id, want); err != nil {
			return nil, fmt.Errorf("make a tail of %s at byte %d of disk %s: %w", lab.Bytes(t.Bytes), t.Offset, id, err)
		}
	}
	c, err := openCache(d, off, n)
	if err != nil {
		return nil, err
	}
	return &tail{t, made, c}, nil
}

// String says what the tail holds, and what became of it.
func (t *tail) String() string {
	chunks, size, limit := t.cache.Stats()
	s := fmt.Sprintf("a tail of %s, with %d chunks in %s of %s of cache", lab.Bytes(t.Bytes), chunks, lab.Bytes(size), lab.Bytes(limit))
	if t.Made != "" {
		s += ", made anew: " + t.Made
	}
	return s
}

func makeTail(d Disk, t lab.DiskTail, id lab.DiskID, page []byte) error {
	if err := makeMachine(d, t, id); err != nil {
		return err
	}
	off, n := t.Cache()
	if err := wipeCache(d, off, n); err != nil {
		return err
	}
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	if _, err := d.WriteAt(page, t.Header()); err != nil {
		return fmt.Errorf("write its last page at byte %d: %w", t.Header(), err)
	}
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	return nil
}

// tailPage is the last page of a tail.
func tailPage(t lab.DiskTail, id lab.DiskID) []byte {
	machine, machineBytes := t.Machine()
	cache, cacheBytes := t.Cache()
	b := aligned(lab.TailHeader)
	copy(b, tailMagic)
	for i, v := range []int64{t.Offset, t.Bytes, machine, machineBytes, cache, cacheBytes} {
		binary.LittleEndian.PutUint64(b[16+8*i:], uint64(v))
	}
	disk := nameOf("disk", id)
	copy(b[64:], disk[:])
	sum := chunk.Sum(b)
	copy(b[96:], sum[:])
	return b
}

// nameOf names something of a disk by a hash. Equal disks give equal names.
func nameOf(what string, id lab.DiskID) chunk.ID {
	return chunk.Sum(fmt.Appendf(nil, "carte %s of %q %q %d", what, id.Serial, id.WWN, id.Bytes))
}

// otherTail says why a page is not the one that was wanted.
func otherTail(page, want []byte) string {
	if chunk.IsZero(page) {
		return "there was none"
	}
	if string(page[:16]) != tailMagic {
		return "something else had been written there"
	}
	sum := chunk.ID(page[96:128])
	clean := bytes.Clone(page)
	clear(clean[96:128])
	switch {
	case chunk.Sum(clean) != sum:
		return "its last page was damaged"
	case !bytes.Equal(page[64:96], want[64:96]):
		return "it was another disk's, copied onto this one"
	}
	return "it had been made for another place or size"
}

// machineOptions are what the machine image of a disk is made with. Its UUID is of version 8 (RFC 9562: made by a rule of
// one's own).
func machineOptions(t lab.DiskTail, id lab.DiskID) ext4.Options {
	_, n := t.Machine()
	name := nameOf("machine image", id)
	o := ext4.Options{Label: "carte-machine", UUID: [16]byte(name[:16]), Size: n}
	o.UUID[6] = o.UUID[6]&0x0f | 0x80
	o.UUID[8] = o.UUID[8]&0x3f | 0x80
	return o
}

// makeMachine makes an empty machine image where there may be anything.
func makeMachine(d Disk, t lab.DiskTail, id lab.DiskID) error {
	off, n := t.Machine()
	if err := d.Zero(off, n); err != nil {
		return fmt.Errorf("zero the machine image, %d bytes at byte %d: %w", n, off, err)
	}
	if err := ext4.Empty(io.NewOffsetWriter(d, off), machineOptions(t, id)); err != nil {
		return fmt.Errorf("make the machine image at byte %d: %w", off, err)
	}
	return nil
}
