package agent

import "math/bits"

// room says which units of a cache are taken: one bit for each. Runs are looked for from the last one on, so that chunks
// which are kept one after the other lie one after the other.
type room struct {
	bits  []uint64 // set: taken
	units int
	taken int
	next  int // where to look first
	most  int // no free run is longer
}

func newRoom(units int) room {
	return room{bits: make([]uint64, (units+63)/64), units: units, most: units}
}

func (r *room) has(u int) bool { return r.bits[u/64]>>(u%64)&1 != 0 }

// take takes k units from u on. It refuses, and takes nothing, if one of them is taken already or is none.
func (r *room) take(u, k int) bool {
	if u < 0 || k < 1 || u > r.units-k || r.firstTaken(u, u+k) != u+k {
		return false
	}
	for i := u; i < u+k; i++ {
		r.bits[i/64] |= 1 << (i % 64)
	}
	r.taken += k
	r.next = u + k
	return true
}

// give gives back what was taken.
func (r *room) give(u, k int) {
	for i := u; i < u+k; i++ {
		r.bits[i/64] &^= 1 << (i % 64)
	}
	r.taken -= k
	from, to := u, u+k // of the free run that this makes; longer than any chunk need not be known
	for from > 0 && !r.has(from-1) && to-from < unitsMost {
		from--
	}
	for to < r.units && !r.has(to) && to-from < unitsMost {
		to++
	}
	if r.most < unitsMost {
		r.most = max(r.most, to-from)
	}
	if to-from >= unitsMost {
		r.most = r.units
	}
}

// find looks for k free units that lie side by side.
func (r *room) find(k int) (u int, ok bool) {
	if k > r.most {
		return 0, false
	}
	if u, ok = r.scan(r.next, r.units, k); !ok {
		if u, ok = r.scan(0, min(r.next+k-1, r.units), k); !ok {
			r.most = k - 1
		}
	}
	return u, ok
}

func (r *room) scan(from, to, k int) (int, bool) {
	for u := r.firstFree(from); u+k <= to; {
		t := r.firstTaken(u, u+k)
		if t == u+k {
			return u, true
		}
		u = r.firstFree(t)
	}
	return 0, false
}

// firstTaken returns the first unit of u..end that is taken, end if there is none.
func (r *room) firstTaken(u, end int) int {
	for u < end && !r.has(u) {
		u++
	}
	return u
}

// firstFree returns the first unit from u on that is free, or units.
func (r *room) firstFree(u int) int {
	for u < r.units {
		if free := ^r.bits[u/64] >> (u % 64); free != 0 {
			return min(u+bits.TrailingZeros64(free), r.units)
		}
		u = u&^63 + 64
	}
	return r.units
}
