package agent

import (
	"context"
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
		note(p, func(i int) bool { return p.state[i] == same })
	}
	if len(e.places) > 0 {
		f.nearby = append(f.nearby, e)
	}
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
