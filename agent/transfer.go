package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"carte/lab"
	"carte/lab/chunk"
)

const (
	fetchers  = 4        // requests at a time; each writes what it fetched
	batchIDs  = 64       // chunks in a request: 16 MiB at most, a few seconds on a slow wire
	damages   = 3        // how often a chunk may come damaged
	grain     = 4096     // what is compared before it is written, in bytes
	zeroAtMax = 32 << 20 // bytes that are zeroed in one call, so that a call back is not kept waiting
)

// transfer changes the disk. The first thing it does is to wait until the server knows.
func (f *flash) transfer(ctx context.Context, t todo) error {
	first := lab.RungWrite
	if t.fetch {
		first = lab.RungFetch
	}
	if err := f.reach(ctx, t.write+t.zero, lab.Report{Rung: first, Writing: true}); err != nil {
		return err
	}
	if err := f.fill(ctx); err != nil {
		return err
	}
	for _, x := range f.tables {
		if !x.differs {
			continue
		}
		if err := f.writeAt(x.data, x.off); err != nil {
			return fmt.Errorf("%s: %w", x.what, err)
		}
		f.gauge.done.Add(int64(len(x.data)))
	}
	if err := f.disk.Sync(); err != nil {
		return fmt.Errorf("write %s: it did not keep what was written to it: %w", f.name, err)
	}
	return nil
}

// place is where a chunk belongs.
type place struct {
	p *part
	i int
}

// fill fetches and writes all chunks, and zeroes what is to be zero.
func (f *flash) fill(ctx context.Context) error {
	p := newPool(f)
	defer p.stop()
	f.pool = p
	g := append(together(fetchers, p.fetcher), f.zeros)
	if f.swarm != nil {
		g = append(g, p.join(f.swarm)...)
		defer f.swarm.leave()
	}
	if err := g.Run(ctx); err != nil {
		return err
	}
	p.done.Store(true)
	if n := f.peers.Load(); n > 0 {
		f.say("%s came from other machines, %s from the server", lab.Bytes(n), lab.Bytes(f.fetched.Load()))
	}
	return nil
}

// fetch gets chunks and writes them where they belong. What a cut connection has brought is kept; only the rest is
// asked for again.
func (f *flash) fetch(ctx context.Context, ids []chunk.ID, places map[chunk.ID][]place) error {
	return newWriter(f).fetch(ctx, ids, places)
}

func (w *writer) fetch(ctx context.Context, ids []chunk.ID, places map[chunk.ID][]place) error {
	ids, err := w.fromNear(ctx, ids, places)
	if err != nil {
		return err
	}
	damaged := map[chunk.ID]int{}
	for len(ids) > 0 {
		got, err := w.source.Chunks(ctx, ids, func(id chunk.ID, stored []byte) error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return w.write(ctx, id, stored, places[id])
		})
		ids = ids[got:]
		switch {
		case err == nil:
		case ctx.Err() == nil && errors.Is(err, chunk.ErrDamaged) && len(ids) > 0:
			at, _ := places[ids[0]][0].p.at(places[ids[0]][0].i)
			if damaged[ids[0]]++; damaged[ids[0]] == damages {
				return fmt.Errorf("chunk %v for byte %d came damaged %d times, it was not written: %w; carte image verify tells more: %w", ids[0], at, damages, err, lab.ErrDamaged)
			}
			w.say("chunk %v for byte %d came damaged and was not written; it is fetched again: %v", ids[0], at, err)
			if err := sleep(ctx, w.pause); err != nil {
				return err
			}
		default:
			return fmt.Errorf("fetch: %w", err)
		}
	}
	return nil
}

// writer proves and writes chunks, one after another.
type writer struct {
	*flash
	wire *atomic.Int64 // counts what came
	raw  []byte        // proven content is put here
	old  []byte        // what the disk has in its place
}

func newWriter(f *flash) *writer {
	return &writer{flash: f, wire: &f.fetched, raw: aligned(chunk.Size), old: aligned(chunk.Size)}
}

func (w *writer) write(ctx context.Context, id chunk.ID, stored []byte, places []place) (err error) {
	w.wire.Add(int64(len(stored)))
	w.raw, err = chunk.Unpack(w.raw, stored, id, places[0].p.Len(places[0].i))
	if err != nil {
		return err
	}
	if w.keep != nil {
		w.keep(id, stored)
	}
	if w.wire == &w.fetched {
		w.pool.show(id, stored)
	}
	return w.lay(ctx, id, w.raw, places)
}

// lay writes a proven chunk wherever it belongs.
func (w *writer) lay(ctx context.Context, id chunk.ID, raw []byte, places []place) error {
	if err := w.begin(ctx); err != nil {
		return err
	}
	for _, at := range places {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		off, n := at.p.at(at.i)
		if n != len(raw) {
			return fmt.Errorf("byte %d: %d bytes of chunk %v belong here, it has %d: %w", off, n, id, len(raw), lab.ErrDamaged)
		}
		if err := w.differing(raw, off, at.p.state[at.i]); err != nil {
			return err
		}
		w.gauge.done.Add(int64(n))
	}
	w.pool.laid(places)
	return nil
}

// begin tells that the first chunk is about to be written.
func (w *writer) begin(ctx context.Context) error {
	if !w.gauge.rename(lab.RungFetch, lab.RungWrite) {
		return nil // another one told
	}
	return w.tell(ctx, lab.Report{Rung: lab.RungWrite})
}

// differing writes raw at off, without the blocks that the disk has already.
func (w *writer) differing(raw []byte, off int64, s state) error {
	if s == other && w.scrub {
		return w.writeAt(raw, off)
	}
	there := func(from, to int) bool { return chunk.IsZero(raw[from:to]) }
	if s != blank {
		old := w.old[:len(raw)]
		if err := w.readAt(old, off); err != nil {
			return err
		}
		there = func(from, to int) bool { return bytes.Equal(old[from:to], raw[from:to]) }
	}
	step := max(grain, w.disk.Block())
	for from, end := 0, len(raw); from < end; {
		to := min(from+step, end)
		if there(from, to) {
			w.kept.Add(int64(to - from))
			from = to
			continue
		}
		for to < end { // one write for blocks that follow one another
			next := min(to+step, end)
			if there(to, next) {
				break
			}
			to = next
		}
		if err := w.writeAt(raw[from:to], off+int64(from)); err != nil {
			return err
		}
		from = to
	}
	return nil
}

// zeros makes zero what the plan has as zeros and the disk has not.
func (f *flash) zeros(ctx context.Context) error {
	for k := range f.parts {
		p := &f.parts[k]
		for i := 0; i < len(p.IDs); {
			off, n := p.at(i)
			i++
			if p.state[i-1].settled() || !p.IDs[i-1].IsZero() {
				continue
			}
			run := int64(n)
			for ; i < len(p.IDs) && !p.state[i].settled() && p.IDs[i].IsZero() && run < zeroAtMax; i++ {
				run += int64(p.Len(i))
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := f.disk.Zero(off, run); err != nil {
				return fmt.Errorf("zero %s at byte %d: %w", f.name, off, err)
			}
			f.zeroed.Add(run)
			f.gauge.done.Add(run)
		}
	}
	return nil
}
