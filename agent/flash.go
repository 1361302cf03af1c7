package agent

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"
	"unsafe"

	"carte/lab"
	"carte/lab/chunk"
)

// A flash makes one disk equal to what the orders say, in steps that each leave something true:
//
//  1. compare: the whole range is read and hashed; nothing was written.
//  2. the server is told that writing begins, and has written that down: the disk is dirty.
//  3. transfer: what differs is fetched, proven in the buffer that is written, written; what is to be zero is zeroed.
//  4. sync, verify: all that was written is read back from the medium and hashed again.
//  5. the server is told that the disk is proven: it is clean.
//
// Where nothing differs, 2 to 4 fall away. Stopped at any point and begun again, step 1 finds what is left to do.
// Memory: 32 bytes and one for each chunk of 256 KiB, and a few buffers for each worker.
type flash struct {
	*work
	disk   Disk
	parts  []part
	tables []table
	scrub  bool // most of the disk differs: whole chunks are written without looking at what is there
}

// A part is one image on the disk.
type part struct {
	lab.Write
	chunk.Manifest
	state []state // of each chunk
}

// state is what is known of the disk where a chunk belongs.
type state byte

const (
	same  state = iota // the disk has the chunk
	blank              // it differs, and the disk has zeros
	other              // it differs, and the disk has something else
)

// table is a small piece that is not an image's: a partition table.
type table struct {
	what    string
	off     int64
	data    []byte
	differs bool
}

// workers is how many cores read, hash and write. More than sixteen gain nothing on one disk and cost memory.
func workers() int { return min(runtime.GOMAXPROCS(0), 16) }

// newFlash checks the orders and fetches what they are made of.
func (w *work) newFlash(ctx context.Context) (*flash, error) {
	o, f := w.orders, &flash{work: w}
	if o.Form != lab.FormDisk && o.Form != lab.FormTree || len(o.Writes) == 0 || o.Form == lab.FormTree && len(o.Writes) != 1 {
		return nil, fmt.Errorf("boot %d: %d images of form %q: this agent does not know how to lay them out: %w", o.Boot, len(o.Writes), o.Form, lab.ErrInvalid)
	}
	end := int64(0)
	for _, x := range o.Writes {
		if x.Offset < end || x.Bytes <= 0 || x.Offset+x.Bytes < x.Offset || x.Offset+x.Bytes > o.Disk.Bytes {
			return nil, fmt.Errorf("boot %d: %s at byte %d does not fit on disk %s: %w", o.Boot, x.Ref, x.Offset, o.Disk, lab.ErrInvalid)
		}
		end = x.Offset + x.Bytes
		m, err := w.client.manifest(ctx, x.Root, x.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", x.Ref, err)
		}
		f.parts = append(f.parts, part{x, m, make([]state, len(m.IDs))})
	}
	return f, nil
}

// run flashes f.disk. On an error everything that was written is at least handed to the disk, and nothing is being
// written any more.
func (f *flash) run(ctx context.Context) error {
	began, id := time.Now(), f.orders.Disk
	if f.disk.Size() != id.Bytes {
		return fmt.Errorf("disk %s has %d bytes and should have %d; it is not the one that was armed: %w", id, f.disk.Size(), id.Bytes, lab.ErrRefused)
	}
	if f.orders.Form == lab.FormTree {
		var err error
		if f.tables, err = treeTables(id, f.disk.Block(), f.parts[0].Write); err != nil {
			return err
		}
	}
	todo, err := f.compare(ctx)
	if err != nil {
		return err
	}
	if todo.none() {
		f.say("disk %s holds %s already, to the last byte; nothing is written", id, f.parts[0].Ref)
		return f.reach(ctx, 0, lab.Report{Rung: lab.RungVerify, Proven: true})
	}
	f.say("disk %s: %d of %d chunks differ; %s to write, %s to zero", id, todo.chunks, todo.of, lab.Bytes(todo.write), lab.Bytes(todo.zero))
	if err := f.transfer(ctx, todo); err != nil {
		return errors.Join(err, f.disk.Sync())
	}
	if err := f.verify(ctx, todo); err != nil {
		return err
	}
	f.say("disk %s is proven after %.1f s: %s read, %s fetched, %s written, %s zeroed", id, time.Since(began).Seconds(),
		lab.Bytes(f.read.Load()), lab.Bytes(f.fetched.Load()), lab.Bytes(f.written.Load()), lab.Bytes(f.zeroed.Load()))
	return f.tell(ctx, lab.Report{Rung: lab.RungVerify, Proven: true})
}

// todo is what compare found.
type todo struct {
	chunks, of  int
	write, zero int64 // bytes of chunks and tables that differ
	fetch       bool  // some of them are the server's
}

func (t todo) none() bool { return t.write == 0 && t.zero == 0 }

// at returns the place of chunk i of p on the disk.
func (p *part) at(i int) (off int64, n int) { return p.Offset + int64(i)*chunk.Size, p.Len(i) }

// readAt fills b from the disk.
func (f *flash) readAt(b []byte, off int64) error {
	if _, err := f.disk.ReadAt(b, off); err != nil {
		return fmt.Errorf("read disk %s at byte %d: %w", f.orders.Disk, off, err)
	}
	f.read.Add(int64(len(b)))
	return nil
}

// writeAt writes b to the disk.
func (f *flash) writeAt(b []byte, off int64) error {
	if _, err := f.disk.WriteAt(b, off); err != nil {
		return fmt.Errorf("write disk %s at byte %d: %w", f.orders.Disk, off, err)
	}
	f.written.Add(int64(len(b)))
	return nil
}

// aligned makes a buffer that a disk can read into directly, past the kernel's cache.
func aligned(n int) []byte {
	const page = 4096
	b := make([]byte, n+page)
	skip := int(-uintptr(unsafe.Pointer(&b[0])) & (page - 1))
	return b[skip : skip+n : skip+n]
}
