package agent

import (
	"context"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"carte/lab/chunk"
)

// A pool is what a flash still wants, and what the disk holds by now. Chunks have numbers that go through all images of
// the plan; each image begins at a multiple of 64. A chunk that was taken from the pool comes back when nobody brought it.
//
// Two bits for each chunk, and one more for each of the others that has it.
type pool struct {
	f    *flash
	base []int           // where the numbers of each image begin
	held []atomic.Uint64 // what the disk holds, for others
	done atomic.Bool     // it holds all

	recent *recent         // nil: nobody will ask
	over   context.Context // ends when there is nothing more to fetch
	stop   context.CancelFunc
	began  time.Time

	mu      sync.Mutex
	open    []uint64      // what nobody has taken
	left    int           // how many that are
	out     int           // how many were taken and may come back
	changed chan struct{} // closed, and made anew, when something did
	near    int           // up to here this machine was searched for what it has
	sharing
}

// newPool knows what compare found.
func newPool(f *flash) *pool {
	p := &pool{f: f, changed: make(chan struct{}), began: time.Now()}
	p.over, p.stop = context.WithCancel(context.Background())
	n := 0
	for i := range f.parts {
		p.base = append(p.base, n)
		n += 64 * wordsOf(len(f.parts[i].IDs))
	}
	p.held, p.open = make([]atomic.Uint64, n/64), make([]uint64, n/64)
	for j := range f.parts {
		part := &f.parts[j]
		for i, s := range part.state {
			k, id := p.base[j]+i, part.IDs[i]
			switch {
			case id.Implied() || s == later:
			case s.settled():
				p.held[k/64].Or(1 << (k % 64))
			default:
				p.open[k/64] |= 1 << (k % 64)
				p.left++
			}
		}
	}
	return p
}

// place is where chunk k belongs.
func (p *pool) place(k int) place {
	j := len(p.base) - 1
	for p.base[j] > k {
		j--
	}
	return place{&p.f.parts[j], k - p.base[j]}
}

// number is the opposite of place.
func (p *pool) number(at place) int {
	for j := range p.f.parts {
		if &p.f.parts[j] == at.p {
			return p.base[j] + at.i
		}
	}
	panic("BUG: a place of another plan")
}

// A bundle is what is fetched with one request: each chunk once, however often it occurs in it.
type bundle struct {
	ids    []chunk.ID
	places map[chunk.ID][]place
	of     int   // places
	near   bool  // this machine is searched, and nobody is asked
	from   *peer // nil: the server
}

// take moves chunk k from the pool to a batch of at most so many; it reports whether there was room.
func (p *pool) take(b *bundle, k, most int) bool {
	at := p.place(k)
	id := at.p.IDs[at.i]
	if b.places[id] == nil {
		if len(b.ids) == most {
			return false
		}
		b.ids = append(b.ids, id)
	}
	b.places[id] = append(b.places[id], at)
	b.of++
	p.open[k/64] &^= 1 << (k % 64)
	p.left--
	return true
}

// sweep takes what is wanted from *at on, in the order of the disk, and leaves *at where the next sweep goes on. It
// returns nil when there is nothing.
func (p *pool) sweep(at *int, most int, wanted func(k int) bool) *bundle {
	b := &bundle{places: map[chunk.ID][]place{}}
	for w := *at / 64; w < len(p.open); w++ {
		for left := p.open[w]; left != 0; left &= left - 1 {
			k := 64*w + bits.TrailingZeros64(left)
			if k < *at || wanted != nil && !wanted(k) {
				continue
			}
			if !p.take(b, k, most) {
				*at = k
				return b
			}
		}
	}
	*at = 64 * len(p.open)
	return b.orNil()
}

// sweepBack is sweep from the end.
func (p *pool) sweepBack(most int, wanted func(k int) bool) *bundle {
	b := &bundle{places: map[chunk.ID][]place{}}
	for w := len(p.open) - 1; w >= 0; w-- {
		for left := p.open[w]; left != 0; {
			k := 64*w + 63 - bits.LeadingZeros64(left)
			left &^= 1 << (k % 64)
			if wanted(k) && !p.take(b, k, most) {
				return b
			}
		}
	}
	return b.orNil()
}

func (b *bundle) orNil() *bundle {
	if len(b.ids) == 0 {
		return nil
	}
	return b
}

// lend notes that a batch may come back.
func (p *pool) lend(b *bundle) *bundle {
	if b != nil {
		p.out += b.of
	}
	return b
}

// settle ends the loan of a batch of which ids were not brought.
func (p *pool) settle(b *bundle, ids []chunk.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out -= b.of
	for _, id := range ids {
		for _, at := range b.places[id] {
			k := p.number(at)
			p.open[k/64] |= 1 << (k % 64)
			p.left++
		}
	}
	if len(ids) > 0 {
		p.rescan()
	}
	p.wake()
}

// wake lets everybody look again.
func (p *pool) wake() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// laid notes that the disk holds a chunk.
func (p *pool) laid(places []place) {
	if p == nil {
		return
	}
	for _, at := range places {
		k := p.number(at)
		p.held[k/64].Or(1 << (k % 64))
	}
}

// show keeps a chunk at hand that others are about to ask for.
func (p *pool) show(id chunk.ID, stored []byte) {
	if p != nil && p.recent != nil && p.company.Load() > 0 {
		p.recent.put(id, stored)
	}
}

// next waits for a batch that choose finds. nil: there is nothing left, and nothing can come back.
func (p *pool) next(ctx context.Context, choose func(now time.Time) *bundle) (*bundle, error) {
	for {
		p.mu.Lock()
		b := choose(time.Now())
		over := b == nil && p.left == 0 && p.out == 0
		changed := p.changed
		p.mu.Unlock()
		if over {
			p.stop()
		}
		if b != nil || over {
			return b, nil
		}
		t := time.NewTimer(beat / 4)
		select {
		case <-changed:
		case <-t.C:
		case <-p.over.Done():
		case <-ctx.Done():
		}
		t.Stop()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
}

// fetcher fetches from the server, and from this machine.
func (p *pool) fetcher(ctx context.Context) error {
	w := newWriter(p.f)
	for {
		b, err := p.next(ctx, p.fromServer)
		if b == nil || err != nil {
			return err
		}
		if !b.near {
			began := time.Now()
			if err := w.fetch(ctx, b.ids, b.places); err != nil {
				return err
			}
			p.paced(len(b.ids), time.Since(began))
			continue
		}
		rest, err := w.fromNear(ctx, b.ids, b.places)
		if err != nil {
			return err
		}
		p.settle(b, rest)
	}
}
