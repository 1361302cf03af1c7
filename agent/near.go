package agent

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"carte/lab/chunk"
)

// near is somewhere on this machine where chunks may be found before the wire is asked. Its methods may be called from
// any number of goroutines.
type near interface {
	// chunk returns the content with that name, of n bytes, in buf or elsewhere; ok is false when it is not to be had. It is
	// proven: whatever the place holds, what is returned hashes to id.
	chunk(id chunk.ID, n int, buf []byte) (raw []byte, ok bool)
}

// elsewhere finds chunks at other places of the disk that is being flashed: those of the image that are there already,
// and those of versions that carte has written there before. A guest may have changed them since, and the flash itself
// writes over them as it goes on; a place that no longer holds its chunk is one lost read.
type elsewhere struct {
	*flash
	places       map[chunk.ID]int64
	hits, misses atomic.Int64
}

// lostReads is after how many lost reads elsewhere gives up, unless every fourth one was a hit.
const lostReads = 64

// findElsewhere looks up where what is needed may be.
func (f *flash) findElsewhere() {
	e := &elsewhere{flash: f, places: map[chunk.ID]int64{}}
	needed := map[chunk.ID]int64{} // where
	for k := range f.parts {
		p := &f.parts[k]
		for i, s := range p.state {
			if id := p.IDs[i]; !s.settled() && !id.Implied() {
				needed[id], _ = p.at(i)
			}
		}
	}
	note := func(p *part, holds func(i int) bool) {
		for i, id := range p.IDs {
			at, needed := needed[id]
			if off, n := p.at(i); needed && off != at && n == chunk.Size && holds(i) { // where it belongs it is not
				e.places[id] = off
			}
		}
	}
	for k := len(f.had) - 1; k >= 0; k-- { // the latest is the last to be noted
		note(&f.had[k], func(int) bool { return true })
	}
	for k := range f.parts {
		p := &f.parts[k]
		note(p, func(i int) bool { return p.state[i].settled() })
	}
	if len(e.places) > 0 {
		f.nearby = append([]near{e}, f.nearby...)
	}
}

// Has says whether a place is known that may hold a chunk.
func (e *elsewhere) Has(id chunk.ID) bool {
	_, ok := e.places[id]
	return ok
}

func (e *elsewhere) chunk(id chunk.ID, n int, buf []byte) ([]byte, bool) {
	off, ok := e.places[id]
	if !ok || n != chunk.Size || off+chunk.Size > e.disk.Size() || e.misses.Load() > lostReads+3*e.hits.Load() {
		return nil, false
	}
	b := buf[:n]
	if err := e.readAt(b, off); err != nil || chunk.Sum(b) != id { // a place that cannot be read is no place to take it from
		e.misses.Add(1)
		return nil, false
	}
	e.hits.Add(1)
	return b, true
}

// fromNear writes what is to be had on this machine and returns the ids that are not.
func (w *writer) fromNear(ctx context.Context, ids []chunk.ID, places map[chunk.ID][]place) (rest []chunk.ID, err error) {
	if len(w.nearby) == 0 {
		return ids, nil
	}
	buf := w.raw[:chunk.Size]
next:
	for _, id := range ids {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		at := places[id][0]
		n := at.p.Len(at.i)
		for _, from := range w.nearby {
			raw, ok := from.chunk(id, n, buf)
			if !ok {
				continue
			}
			w.reused.Add(int64(n))
			if err := w.lay(ctx, id, raw, places[id]); err != nil {
				return nil, err
			}
			continue next
		}
		rest = append(rest, id)
	}
	return rest, nil
}

// one returns the content of a chunk of n bytes, proven, from wherever it is to be had.
func (f *flash) one(ctx context.Context, id chunk.ID, n int) (raw []byte, err error) {
	buf := aligned(chunk.Size)
	for _, from := range f.nearby {
		if raw, ok := from.chunk(id, n, buf); ok {
			f.reused.Add(int64(n))
			return raw, nil
		}
	}
	for try := 1; ; try++ {
		_, err = f.source.Chunks(ctx, []chunk.ID{id}, func(_ chunk.ID, stored []byte) (err error) {
			f.fetched.Add(int64(len(stored)))
			if raw, err = chunk.Unpack(buf, stored, id, n); err == nil && f.keep != nil {
				f.keep(id, stored)
			}
			return err
		})
		if err == nil || !errors.Is(err, chunk.ErrDamaged) || try == damages {
			return raw, err
		}
		if err := sleep(ctx, f.pause); err != nil {
			return nil, err
		}
	}
}

// cached finds chunks in the cache at the end of the disk, and puts those there that came over the wire.
type cached struct {
	*cache
	say  func(format string, args ...any)
	full atomic.Bool // the disk did not take a chunk: none is tried again
}

func (c *cached) chunk(id chunk.ID, n int, buf []byte) ([]byte, bool) {
	if !c.Has(id) {
		return nil, false
	}
	stored := storedBuffers.Get().(*[]byte)
	defer storedBuffers.Put(stored)
	b, err := c.Get(id, *stored)
	if err == nil {
		b, err = chunk.Unpack(buf, b, id, n)
	}
	if err != nil { // the user's system was there, or the power went
		c.Drop(id)
		return nil, false
	}
	return b, true
}

func (c *cached) put(id chunk.ID, stored []byte) {
	if c.full.Load() {
		return
	}
	if err := c.Put(id, stored); err != nil && !c.full.Swap(true) {
		c.say("the cache takes no more chunks, the flash goes on without: %v", err)
	}
}

// storedBuffers hold chunks as the cache has them.
var storedBuffers = sync.Pool{New: func() any { b := aligned((chunk.MaxStored + grain - 1) / grain * grain); return &b }}
