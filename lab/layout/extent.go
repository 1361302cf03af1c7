package layout

import (
	"cmp"
	"slices"
	"sort"
)

// An Extent is a piece of a disk. Lists of them are sorted, disjoint and merged unless they say otherwise.
type Extent struct{ Off, Bytes int64 }

// maxExtents bounds the memory of a map: 16 bytes for each.
const maxExtents = 1 << 20

// pieces collects extents that come in ascending order. Where there are too many it forgets the shortest ones: what it holds
// is always free, and never more than maxExtents.
type pieces struct {
	list  []Extent
	least int64 // bytes of the shortest that is kept; 0: all are
}

func (p *pieces) add(off, n int64) {
	if n <= 0 {
		return
	}
	if i := len(p.list) - 1; i >= 0 && p.list[i].Off+p.list[i].Bytes == off {
		p.list[i].Bytes += n
		return
	}
	for len(p.list) >= maxExtents {
		p.least = max(4096, 2*p.least)
		p.list = slices.DeleteFunc(p.list, func(e Extent) bool { return e.Bytes < p.least })
	}
	p.list = append(p.list, Extent{off, n})
}

// merged sorts a list and makes it disjoint. It keeps the slice.
func merged(list []Extent) []Extent {
	slices.SortFunc(list, func(a, b Extent) int { return cmp.Compare(a.Off, b.Off) })
	out := list[:0]
	for _, e := range list {
		if e.Bytes <= 0 {
			continue
		}
		if i := len(out) - 1; i >= 0 && out[i].Off+out[i].Bytes >= e.Off {
			out[i].Bytes = max(out[i].Bytes, e.Off+e.Bytes-out[i].Off)
			continue
		}
		out = append(out, e)
	}
	return out
}

// without returns what list holds and taken does not.
func without(list, taken []Extent) []Extent {
	var out []Extent
	i := 0
	for _, e := range list {
		for i < len(taken) && taken[i].Off+taken[i].Bytes <= e.Off {
			i++
		}
		at, end := e.Off, e.Off+e.Bytes
		for j := i; j < len(taken) && taken[j].Off < end; j++ {
			if taken[j].Off > at {
				out = append(out, Extent{at, taken[j].Off - at})
			}
			at = max(at, taken[j].Off+taken[j].Bytes)
		}
		if at < end {
			out = append(out, Extent{at, end - at})
		}
	}
	return out
}

// sum is how many bytes the extents hold.
func sum(list []Extent) (n int64) {
	for _, e := range list {
		n += e.Bytes
	}
	return n
}

// from returns the part of list that begins with the first extent that ends behind off.
func from(list []Extent, off int64) []Extent {
	return list[sort.Search(len(list), func(i int) bool { return list[i].Off+list[i].Bytes > off }):]
}

// blank zeroes what of b, which lies at off, is in list, and reports whether that changed anything.
func blank(list []Extent, b []byte, off int64) (changed bool) {
	for _, e := range from(list, off) {
		if e.Off >= off+int64(len(b)) {
			break
		}
		piece := b[max(0, e.Off-off):min(int64(len(b)), e.Off+e.Bytes-off)]
		if !isZero(piece) {
			clear(piece)
			changed = true
		}
	}
	return changed
}
