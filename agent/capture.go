package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"carte/lab"
	"carte/lab/chunk"
	"carte/lab/layout"
)

// A Keeper takes captures in.
type Keeper interface {
	// Lacks returns those of ids that are not stored, in their order.
	Lacks(ctx context.Context, ids []chunk.ID) ([]chunk.ID, error)
	// Keep makes m the next version of an image; next hands over what was lacking and ends with io.EOF.
	Keep(ctx context.Context, c lab.Capture, m chunk.Manifest, next func() (chunk.ID, []byte, error)) (lab.Imported, error)
}

// Capture makes what a file or device holds the next version of an image. It only reads, and hands over only chunks that
// the keeper lacks. bases are the versions whose bytes, when they are the same, make the capture unnecessary. An error
// leaves no version.
func Capture(ctx context.Context, to Keeper, c lab.Capture, bases []lab.Version, hear Audience) (done lab.Flashed, got lab.Imported, err error) {
	began := time.Now()
	d, err := openSource(c.From)
	if err != nil {
		return done, got, fmt.Errorf("capture %s: %w", c.Name, err)
	}
	defer d.Close()
	n := &counts{}
	x := &capture{flash: flash{counts: n, teller: alone{n, hear}, disk: d, name: c.From}, to: to, Capture: c}
	err = group{alone{n, hear}.pulse, func(ctx context.Context) error {
		if !c.Whole {
			if x.spare, err = layout.Read(ctx, d, d.Size()); err != nil {
				return err
			}
			x.tellKept()
		}
		for _, v := range bases {
			x.compared(ctx, lab.Write{Ref: v.Ref(), Root: v.Root, Bytes: v.Bytes})
		}
		if got, err = x.run(ctx, bases); err != nil {
			return err
		}
		return errDone
	}}.Run(ctx)
	if err != nil {
		return done, got, fmt.Errorf("capture %s from %s: %w; no version was made", c.Name, c.From, err)
	}
	done = n.done(began)
	v := got.Version
	done.Image, done.Version, done.Root, done.Path, done.Total, done.Same = v.Image, v.Number, v.Root, c.From, v.Bytes, got.Same
	done.Strategy, done.Why, done.Predicted, done.Differential = lab.Differential, x.why, x.predicted, x.predicted
	done.Sent, done.Written = n.sent.Load(), got.New
	return done, got, nil
}

// capture is one that goes on. Of a flash it has the disk and the reading.
type capture struct {
	flash
	lab.Capture
	to        Keeper
	spare     layout.Map     // what nobody needs
	base      chunk.Manifest // what the disk may still be; empty: nothing is known of it
	why       string
	predicted float64
}

// errMissing says that the keeper does not have all chunks of a manifest any more. What it lacks must be asked anew.
var errMissing = errors.New("chunks are missing")

// openSource opens a file or device for reading. A device that is in use would change while it is read.
func openSource(path string) (*device, error) {
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s: %w", path, lab.ErrNotFound)
	case err != nil:
		return nil, err
	case st.IsDir(), !st.Mode().IsRegular() && (st.Mode()&fs.ModeDevice == 0 || st.Mode()&fs.ModeCharDevice != 0):
		return nil, fmt.Errorf("%s is neither a file nor a block device: %w", path, lab.ErrInvalid)
	case st.Mode().IsRegular():
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
			return nil, errors.Join(fmt.Errorf("%s is being flashed by another carte: %w", path, lab.ErrBusy), f.Close())
		}
		return &device{file: f, size: st.Size(), block: 512}, nil
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("%s is in use and would change while it is read; unmount it first: %w", path, lab.ErrBusy)
	}
	if err != nil {
		return nil, err
	}
	d := &device{file: f}
	if d.size, d.block, err = measure(f); err == nil {
		d.direct, err = os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT, 0)
	}
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// compared makes a version what the disk is compared with, where its manifest can be had; it spares hashing and sending.
func (x *capture) compared(ctx context.Context, w lab.Write) {
	from, ok := x.to.(Source)
	if !ok || w.Root.IsZero() {
		return
	}
	if m, err := from.Manifest(ctx, w.Root, w.Bytes); err == nil {
		x.base = m
	}
}

// tellKept says where free space is captured, too, and why.
func (x *capture) tellKept() (why []string) {
	const telling = 16 << 20 // what boot loaders have is smaller
	for _, s := range x.spare.Systems {
		if s.Kept != "" && s.Bytes >= telling {
			line := fmt.Sprintf("whatever is free in the %s at byte %d (%s) is captured too: %s", lab.Bytes(s.Bytes), s.Off, clean(s.String()), clean(s.Kept))
			x.say("%s", line)
			why = append(why, line)
		}
	}
	return why
}

func (x *capture) run(ctx context.Context, bases []lab.Version) (got lab.Imported, err error) {
	size := x.disk.Size()
	if size == 0 {
		return got, fmt.Errorf("it is empty: %w", lab.ErrInvalid)
	}
	m := chunk.Manifest{Size: size, IDs: make([]chunk.ID, chunk.Count(size))}
	began := time.Now()
	if err := x.hash(ctx, m); err != nil {
		return got, err
	}
	if x.isBase(m) {
		m = x.base
	}
	root := m.Root()
	for _, v := range bases {
		if v.Root == root {
			x.why, x.predicted = "nothing differs from "+v.Ref().String(), time.Since(began).Seconds()
			return lab.Imported{Version: v, Same: true, Format: "raw"}, nil
		}
	}
	first := map[chunk.ID]int{}
	var ids []chunk.ID
	for i, id := range m.IDs {
		if _, have := first[id]; !have && !id.Implied() {
			first[id] = i
			ids = append(ids, id)
		}
	}
	const rounds = 3
	for n := 1; ; n++ {
		lacking, err := x.to.Lacks(ctx, ids)
		if err != nil {
			return got, err
		}
		x.why = fmt.Sprintf("%d of %d chunks are new to the lab", len(lacking), len(ids))
		x.predicted = time.Since(began).Seconds() * (1 + 3*float64(len(lacking))/float64(max(1, len(ids)))) // packing takes some times as long as hashing
		x.say("%s: %s, %s to send before packing", x.name, x.why, lab.Bytes(int64(len(lacking))*chunk.Size))
		got, err = x.hand(ctx, m, lacking, first)
		if !errors.Is(err, errMissing) || n == rounds {
			return got, err
		}
		x.say("%s: %v; what is lacking is sent once more", x.name, err)
	}
}

// isBase says whether the disk differs from the base in nothing that anybody needs.
func (x *capture) isBase(m chunk.Manifest) bool {
	if m.Size != x.base.Size {
		return false
	}
	for i, id := range m.IDs {
		if id != x.base.IDs[i] && id != chunk.Free {
			return false
		}
	}
	return true
}

// hash fills in the manifest. What nobody needs and where a file holds nothing is not read.
func (x *capture) hash(ctx context.Context, m chunk.Manifest) error {
	if err := x.reach(ctx, m.Size, lab.Report{Rung: lab.RungHash}); err != nil {
		return err
	}
	p := newPart(lab.Write{Bytes: m.Size}, m) // IDs are zero so far: chart settles what is blank
	for i := range m.IDs {
		if off, n := p.at(i); x.spare.Cover(off, int64(n)) {
			m.IDs[i], p.state[i] = chunk.Free, same
		}
	}
	x.chart(&p)
	const step = reading / chunk.Size
	var next atomic.Int64
	return together(workers(), func(ctx context.Context) error {
		buf := aligned(reading)
		for first := int(next.Add(step)) - step; first < len(m.IDs); first = int(next.Add(step)) - step {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := x.hashRun(&p, first, min(first+step, len(m.IDs)), buf); err != nil {
				return err
			}
		}
		return nil
	}).Run(ctx)
}

// hashRun names the chunks from first to before last. Those that follow one another are read at once.
func (x *capture) hashRun(p *part, first, last int, buf []byte) error {
	for i := first; i < last; {
		off, n := p.at(i)
		if p.state[i] != unknown {
			x.gauge.done.Add(int64(n))
			i++
			continue
		}
		end, total := i, 0
		for ; end < last && p.state[end] == unknown; end++ {
			total += p.Len(end)
		}
		b := buf[:total]
		if err := x.readAt(b, off); err != nil {
			return err
		}
		for ; i < end; i++ {
			off, n := p.at(i)
			p.IDs[i] = x.nameOf(b[:n], off, i)
			x.gauge.done.Add(int64(n))
			b = b[n:]
		}
	}
	return nil
}

// nameOf hashes chunk i, without what nobody needs of it: unless it is the base's to the last byte, which the lab has.
func (x *capture) nameOf(b []byte, off int64, i int) chunk.ID {
	id := chunk.Sum(b)
	if i < len(x.base.IDs) && id == x.base.IDs[i] || !x.spare.Blank(b, off) {
		return id
	}
	return chunk.Sum(b)
}

// packed is a chunk on its way.
type packed struct {
	id     chunk.ID
	stored []byte
}

// hand reads once more what is lacking, packs it, and hands it over.
func (x *capture) hand(ctx context.Context, m chunk.Manifest, lacking []chunk.ID, first map[chunk.ID]int) (got lab.Imported, err error) {
	if err := x.reach(ctx, int64(len(lacking))*chunk.Size, lab.Report{Rung: lab.RungFetch}); err != nil {
		return got, err
	}
	ready, free := make(chan packed), make(chan []byte, 2*workers())
	for range cap(free) {
		free <- make([]byte, 0, chunk.MaxStored)
	}
	var next, ended atomic.Int64
	packer := func(ctx context.Context) error {
		buf := aligned(chunk.Size)
		for k := int(next.Add(1)) - 1; k < len(lacking); k = int(next.Add(1)) - 1 {
			id := lacking[k]
			i := first[id]
			b := buf[:m.Len(i)]
			if err := x.readAt(b, int64(i)*chunk.Size); err != nil {
				return err
			}
			if chunk.Sum(b) != id && !(x.spare.Blank(b, int64(i)*chunk.Size) && chunk.Sum(b) == id) {
				return fmt.Errorf("byte %d has changed while it was read; stop whatever writes there, and do it again: %w", int64(i)*chunk.Size, lab.ErrBusy)
			}
			select {
			case dst := <-free:
				select {
				case ready <- packed{id, chunk.Pack(dst, b)}:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			x.gauge.done.Add(int64(len(b)))
		}
		if int(ended.Add(1)) == workers() {
			close(ready)
		}
		return nil
	}
	keep := func(ctx context.Context) error {
		var last []byte
		var err error
		got, err = x.to.Keep(ctx, x.Capture, m, func() (chunk.ID, []byte, error) {
			if last != nil {
				free <- last[:0]
				last = nil
			}
			select {
			case p, more := <-ready:
				if !more {
					return chunk.ID{}, nil, io.EOF
				}
				last = p.stored
				x.sent.Add(int64(len(p.stored)))
				return p.id, p.stored, nil
			case <-ctx.Done():
				return chunk.ID{}, nil, context.Cause(ctx)
			}
		})
		return err
	}
	err = append(together(workers(), packer), keep).Run(ctx)
	return got, err
}
