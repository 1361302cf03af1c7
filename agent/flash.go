package agent

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
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
	*counts
	teller
	source Source
	disk   Disk
	name   string        // the disk's, for messages
	pause  time.Duration // before a chunk that came damaged is fetched again
	parts  []part
	tables []table
	scrub  bool                             // most of the disk differs: whole chunks are written without looking at what is there
	had    []part                           // what the disk held before, and where: the latest first
	nearby []near                           // where chunks are looked for before source is asked, the nearest first
	keep   func(id chunk.ID, stored []byte) // is handed every chunk that came over the wire, proven; may be nil
	blind  bool                             // what is there is not looked at: all that may hold something is written
	swarm  *swarm                           // other machines that lay the same; nil: nobody
	pool   *pool                            // what is to be fetched; nil before
	vouch  *vouch                           // what may be written over; nil: everything
	check  lab.Check                        // how much of what was written is read back; empty: all
}

// A Source is where chunks come from. Its methods may be called from any number of goroutines.
type Source interface {
	// Manifest returns the manifest with that root, proven, of an image of size bytes.
	Manifest(ctx context.Context, root chunk.ID, size int64) (chunk.Manifest, error)
	// Chunks hands over chunks in the order of ids, at most lab.MaxChunksAsked, in their stored form, unchecked but for the
	// name; stored is valid until each returns. got counts those that each took without an error.
	Chunks(ctx context.Context, ids []chunk.ID, each func(id chunk.ID, stored []byte) error) (got int, err error)
}

// A teller hears how a flash goes on. Its error ends the flash.
type teller interface {
	reach(ctx context.Context, of int64, r lab.Report) error // a rung, on which of bytes will be moved
	tell(ctx context.Context, r lab.Report) error
	say(format string, args ...any)
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
	unknown state = iota // not looked at
	same                 // the disk has the chunk
	blank                // it differs, and the disk has zeros
	other                // it differs, and the disk has something else
	laid                 // it differed, and was written by the probe of the strategy
	proven               // laid, and read back
	later                // it is not here, and comes when the user's system runs
)

// newPart knows of the disk that what is there is right where nothing is needed.
func newPart(w lab.Write, m chunk.Manifest) part {
	p := part{w, m, make([]state, len(m.IDs))}
	for i, id := range m.IDs {
		if id == chunk.Free {
			p.state[i] = same
		}
	}
	return p
}

// table is a small piece that is not an image's: a partition table.
type table struct {
	what    string
	off     int64
	data    []byte
	differs bool
}

// workers is how many cores read, hash and write. More than sixteen gain nothing on one disk and cost memory.
func workers() int { return min(runtime.GOMAXPROCS(0), 16) }

// run flashes f.disk. On an error everything that was written is at least handed to the disk, and nothing is being
// written any more.
func (f *flash) run(ctx context.Context) error {
	began := time.Now()
	todo, err := f.compare(ctx)
	if err != nil {
		return err
	}
	if todo.none() {
		f.say("%s holds %s already, %s; nothing is written", f.name, f.parts[0].Ref, f.whole())
		return f.reach(ctx, 0, lab.Report{Rung: lab.RungVerify, Proven: true})
	}
	f.say("%s: %d of %d chunks differ; %s to write, %s to zero", f.name, todo.chunks, todo.of, lab.Bytes(todo.write), lab.Bytes(todo.zero))
	f.findElsewhere()
	if f.postpone(&todo); todo.later > 0 {
		f.say("%s of lazy layers are fetched while the system runs", lab.Bytes(todo.later))
	}
	if err := f.transfer(ctx, todo); err != nil {
		return errors.Join(err, f.disk.Sync())
	}
	if err := f.verify(ctx, todo); err != nil {
		return err
	}
	f.say("%s is %s after %.1f s: %s", f.name, f.proof(), time.Since(began).Seconds(), f.moved().Words())
	return f.tell(ctx, lab.Report{Rung: lab.RungVerify, Proven: f.check.All(), Absent: todo.later})
}

// whole says how much of the disk is known to be the images'.
func (f *flash) whole() string {
	for _, p := range f.parts {
		if slices.Contains(p.IDs, chunk.Free) {
			return "in every byte that it needs"
		}
	}
	return "to the last byte"
}

// proof says in a word how well the disk is known to hold what was written.
func (f *flash) proof() string {
	switch f.check {
	case lab.CheckNever:
		return "written, and was not read back,"
	case lab.CheckSampled:
		return "written and sampled"
	}
	return "proven"
}

// todo is what compare found.
type todo struct {
	chunks, of  int
	write, zero int64 // bytes of chunks and tables that differ
	later       int64 // bytes of lazy layers that come when the user's system runs
	laid        int64 // bytes of chunks that the probe has written already, and nobody has read back
	proven      int64 // and those that were
	fetch       bool  // some of them are the server's
}

func (t todo) none() bool { return t.write == 0 && t.zero == 0 && t.laid == 0 && t.proven == 0 }

// at returns the place of chunk i of p on the disk.
func (p *part) at(i int) (off int64, n int) { return p.Offset + int64(i)*chunk.Size, p.Len(i) }

// readAt fills b from the disk.
func (f *flash) readAt(b []byte, off int64) error {
	if _, err := f.disk.ReadAt(b, off); err != nil {
		return fmt.Errorf("read %s at byte %d: %w", f.name, off, err)
	}
	f.read.Add(int64(len(b)))
	return nil
}

// writeAt writes b to the disk.
func (f *flash) writeAt(b []byte, off int64) error {
	if _, err := f.disk.WriteAt(b, off); err != nil {
		return fmt.Errorf("write %s at byte %d: %w", f.name, off, err)
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
