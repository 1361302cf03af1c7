package agent

import (
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
	"slices"
	"sync/atomic"
	"time"

	"carte/lab"
	"carte/lab/chunk"
)

// Which chunk comes from where.
//
// A chunk that another has is taken from that one. Of the rest, every run of neighbouring chunks has an owner, whom all
// compute alike (rendezvous hashing): the owner asks the server, and the others wait until he has it. Nobody waits for
// long: an owner who does not answer, or not go on, is none, and who gets too little from the others takes what is left
// from the server, beginning at the end.
const (
	peerRun      = 8                      // neighbouring chunks of one owner: 2 MiB, so that packs and disks are gone through in long strokes
	peerBatch    = 8                      // chunks in a request, while there are others: what is asked for cannot be had elsewhere any more
	peerRequests = 2                      // requests to one of the others at a time
	greeting     = 200 * time.Millisecond // so long the server is not asked while the others have not answered at all
	settling     = 3 * time.Second        // so long it is likely that others are about to come
	patience     = 3 * time.Second        // so long one who fetches may show no new chunk and still be an owner
	beat         = time.Second            // after so long it is looked at what came from the others
	lean         = 4                      // the server would have brought more than so many times as much: that is too little
	leanBeats    = 3                      // after so many lean beats all that is left may come from the server
	busyPause    = 50 * time.Millisecond  // so long one who is busy is asked for no chunk
)

// sharing is the part of the pool that knows of others.
type sharing struct {
	swarm   *swarm // nil: there is nobody else
	peers   [lab.MaxPeers]*peer
	company atomic.Int32  // how many peers
	listed  chan struct{} // closed, and made anew, when peers changes
	seed    uint64
	scans   [2]struct { // of the server's sweeps
		among mask
		at    int
	}
	turn int // who of the others is asked first

	gained atomic.Int64 // chunks that came from the others
	pace   float64      // chunks that the server brings in a beat
	idle   time.Time    // since when there is nothing to ask the server for
	before int64        // gained at that time
	hungry int          // lean beats in a row
	leave  int          // bundles that may come from the server although another is to bring them
}

// A mask has a bit for each of the peers.
type mask uint32

// me is who is no peer.
const me = -1

// seedOf is what a token adds to the hash.
func seedOf(token string) uint64 {
	sum := sha256.Sum256([]byte(token))
	return binary.LittleEndian.Uint64(sum[:])
}

// meet makes all the others. Who was there already is asked as before.
func (p *pool) meet(all []lab.Peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, q := range p.peers {
		if q != nil && !slices.Contains(all, q.Peer) {
			q.http.CloseIdleConnections()
			p.peers[i] = nil
		}
	}
	for _, x := range all {
		known := slices.ContainsFunc(p.peers[:], func(q *peer) bool { return q != nil && q.Peer == x })
		if free := slices.Index(p.peers[:], nil); !known && free >= 0 {
			if q, err := newPeer(x); err == nil {
				q.have = make([]uint64, len(p.open))
				p.peers[free] = q
			}
		}
	}
	p.company.Store(int32(len(all)))
	if p.listed != nil {
		close(p.listed)
	}
	p.listed = make(chan struct{})
	p.rescan()
	p.wake()
}

// rescan lets the sweeps begin anew: something that they passed may have to come from the server after all.
func (p *pool) rescan() { p.scans[0].at, p.scans[1].at = 0, 0 }

// others returns those that are there, those of them that answer, and those that fetch and get on.
func (p *pool) others(now time.Time) (there, answer, fetch mask) {
	for i, q := range p.peers {
		if q == nil {
			continue
		}
		there |= 1 << i
		if !q.answers || now.Before(q.away) {
			continue
		}
		answer |= 1 << i
		if q.phase == fetching && now.Sub(q.grew) < patience {
			fetch |= 1 << i
		}
	}
	return there, answer, fetch
}

// rank is the hash by which the owner of chunk k is found.
func (p *pool) rank(seed uint64, k int) uint64 {
	at := p.place(k)
	x := seed ^ (binary.LittleEndian.Uint64(at.p.Write.Root[:]) + uint64(at.i/peerRun)*0x9e3779b97f4a7c15)
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9 // the finalizer of splitmix64 (Steele et al., 2014)
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// owner returns which of some is the owner of chunk k, or me.
func (p *pool) owner(k int, some mask) (who int) {
	who, best := me, p.rank(p.seed, k)
	for m := some; m != 0; m &= m - 1 {
		i := bits.TrailingZeros32(uint32(m))
		if r := p.rank(p.peers[i].seed, k); r > best {
			who, best = i, r
		}
	}
	return who
}

// holders are those of some that have chunk k.
func (p *pool) holders(k int, some mask) (who mask) {
	for m := some; m != 0; m &= m - 1 {
		if i := bits.TrailingZeros32(uint32(m)); p.peers[i].have[k/64]&(1<<(k%64)) != 0 {
			who |= 1 << i
		}
	}
	return who
}

// fromServer chooses what is asked of the server next.
func (p *pool) fromServer(now time.Time) *bundle {
	there, answer, fetch := p.others(now)
	if there == 0 {
		return p.sweep(p.sweeping(0, 0), p.alone(now), nil)
	}
	if len(p.f.nearby) > 0 && p.near < 64*len(p.open) {
		if b := p.lend(p.sweep(&p.near, batchIDs, nil)); b != nil {
			b.near = true
			return b
		}
	}
	if answer == 0 {
		if now.Sub(p.began) < greeting && p.greets() {
			return nil
		}
		return p.sweep(p.sweeping(0, 0), p.alone(now), nil)
	}
	for i, some := range [...]mask{answer, fetch} {
		b := p.sweep(p.sweeping(i, some), peerBatch, func(k int) bool { return p.owner(k, some) == me && p.holders(k, answer) == 0 })
		if b != nil {
			p.idle, p.leave, p.hungry = time.Time{}, 0, 0
			return b
		}
	}
	return p.spare(now, fetch)
}

// alone is how many chunks are asked of the server at a time while nobody answers. At first somebody may still come.
func (p *pool) alone(now time.Time) int {
	if p.swarm != nil && now.Sub(p.began) < settling {
		return peerBatch
	}
	return batchIDs
}

// sweeping is where the sweep goes on that knows of some others.
func (p *pool) sweeping(i int, some mask) *int {
	s := &p.scans[i]
	if s.among != some {
		s.among, s.at = some, 0
	}
	return &s.at
}

// greets says whether somebody may still answer for the first time.
func (p *pool) greets() bool {
	return slices.ContainsFunc(p.peers[:], func(q *peer) bool { return q != nil && !q.answers && q.fails == 0 })
}

// spare takes from the server what others are to bring, if they bring too little: what would be this agent's if the owner
// were not there; after a while anything.
func (p *pool) spare(now time.Time, fetch mask) *bundle {
	switch {
	case p.idle.IsZero():
		p.idle, p.before = now, p.gained.Load()
	case now.Sub(p.idle) >= beat:
		gained := p.gained.Load()
		if p.hungry++; float64(gained-p.before) >= max(1, p.pace/lean) {
			p.hungry, p.leave = 0, 0
		} else {
			p.leave = fetchers << min(p.hungry, 16)
		}
		p.idle, p.before = now, gained
	}
	if p.leave == 0 {
		return nil
	}
	p.leave--
	return p.sweepBack(peerBatch, func(k int) bool {
		if p.hungry >= leanBeats {
			return true
		}
		first := p.owner(k, fetch)
		return first == me || p.owner(k, fetch&^(1<<first)) == me
	})
}

// fromPeer chooses what is asked of another next: what he is the first to be asked for, or else anything that he has.
func (p *pool) fromPeer(now time.Time) *bundle {
	_, answer, _ := p.others(now)
	for _, first := range []bool{true, false} {
		for j := range p.peers {
			i := (p.turn + j) % len(p.peers)
			q := p.peers[i]
			if answer&(1<<i) == 0 || q.asked >= peerRequests || now.Before(q.busy) {
				continue
			}
			b := p.sweepPeer(q, func(k int) bool { return !first || p.firstOf(k, p.holders(k, answer)) == i })
			if b != nil {
				p.turn, q.asked = i+1, q.asked+1
				return p.lend(b)
			}
		}
	}
	return nil
}

// firstOf is the owner among some, of whom there is one at least.
func (p *pool) firstOf(k int, some mask) (who int) {
	best := uint64(0)
	for m := some; m != 0; m &= m - 1 {
		i := bits.TrailingZeros32(uint32(m))
		if r := p.rank(p.peers[i].seed, k); r >= best {
			who, best = i, r
		}
	}
	return who
}

// sweepPeer takes chunks of one image that q has.
func (p *pool) sweepPeer(q *peer, wanted func(k int) bool) *bundle {
	b := &bundle{places: map[chunk.ID][]place{}, from: q}
	for w := range p.open {
		for left := p.open[w] & q.have[w]; left != 0; left &= left - 1 {
			k := 64*w + bits.TrailingZeros64(left)
			if len(b.ids) > 0 && p.place(k).p != b.places[b.ids[0]][0].p {
				return b
			}
			if wanted(k) && !p.take(b, k, peerBatch) {
				return b
			}
		}
	}
	return b.orNil()
}
