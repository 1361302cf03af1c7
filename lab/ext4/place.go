package ext4

import (
	"cmp"
	"slices"
)

// bitmap is a set of blocks. The zero value is empty and takes no more.
type bitmap []uint64

func newBitmap(n uint32) bitmap    { return make(bitmap, (n+63)/64) }
func (m bitmap) has(b uint32) bool { return int(b/64) < len(m) && m[b/64]&(1<<(b%64)) != 0 }
func (m bitmap) set(b uint32)      { m[b/64] |= 1 << (b % 64) }
func (m bitmap) setAll(list []extent) { // of blocks
	for _, x := range list {
		for i := range x.n {
			m.set(x.first + i)
		}
	}
}

// place gives every node its blocks. What a file had in the older version it has again, if that is enough; what it needs no longer is free, and all
// that is new goes into the first gap that is large enough. Directories and attributes come first, so that what changes a little lies together.
func (b *builder) place() error {
	used := newBitmap(b.layout.blocks)
	for _, n := range b.nodes {
		n.data, n.index, n.xattr = nil, nil, 0
		if old := b.was[n]; old != nil {
			b.keep(n, old, used)
		}
	}
	b.gaps(used)
	if err := b.each(func(n *Node) bool { return n.IsDir() }); err != nil {
		return err
	}
	if err := b.each(func(n *Node) bool { return !n.IsDir() && n.Mode&TypeMask != TypeFile }); err != nil {
		return err
	}
	for _, n := range b.nodes {
		if err := b.describe(n, false); err != nil {
			return err
		}
	}
	if err := b.each(func(n *Node) bool { return n.Mode&TypeMask == TypeFile }); err != nil {
		return err
	}
	for _, n := range b.nodes { // of files whose content has moved
		if err := b.describe(n, true); err != nil {
			return err
		}
	}
	b.layout.files = newBitmap(b.layout.blocks)
	for _, n := range b.nodes {
		b.layout.files.setAll(n.data)
		for _, x := range n.index {
			b.layout.files.set(x)
		}
		if n.xattr != 0 {
			b.layout.files.set(n.xattr)
		}
	}
	return nil
}

// keep gives a node what it had, where nobody else has it.
func (b *builder) keep(n *Node, old *oldFile, used bitmap) {
	take := func(first, count uint32) bool {
		for i := range count {
			if x := first + i; x < b.layout.end || x >= b.layout.blocks || used.has(x) {
				return false
			}
		}
		return true
	}
	var have []extent
	left := n.need
	for _, x := range old.data {
		if count := min(left, x.n); count > 0 && take(x.first, count) {
			have = append(have, extent{first: x.first, n: count})
			left -= count
		}
	}
	if left == 0 {
		n.data = have
		used.setAll(have)
		for _, x := range old.index[:min(len(old.index), treeBlocks(len(n.mapped())))] {
			if take(x, 1) {
				n.index = append(n.index, x)
				used.set(x)
			}
		}
	}
	if n.block != nil && old.xattr != 0 && take(old.xattr, 1) {
		n.xattr = old.xattr
		used.set(old.xattr)
	}
}

// gaps lists what is free.
func (b *builder) gaps(used bitmap) {
	b.free = nil
	for i := b.layout.end; i < b.layout.blocks; i++ {
		if i%64 == 0 && used[i/64] == 0 && len(b.free) > 0 && b.free[len(b.free)-1].first+b.free[len(b.free)-1].n == i && i+64 <= b.layout.blocks {
			b.free[len(b.free)-1].n += 64
			i += 63
			continue
		}
		if used.has(i) {
			continue
		}
		if k := len(b.free) - 1; k >= 0 && b.free[k].first+b.free[k].n == i {
			b.free[k].n++
		} else {
			b.free = append(b.free, extent{first: i, n: 1})
		}
	}
}

// each places the content of some nodes that have no place yet.
func (b *builder) each(which func(*Node) bool) (err error) {
	for _, n := range b.nodes {
		if which(n) && n.need > 0 && n.data == nil {
			if n.data, err = b.take(n.need); err != nil {
				return err
			}
		}
	}
	return nil
}

// describe places what says more about a node: attributes, and its extent tree, of files where files is set, else of all others.
func (b *builder) describe(n *Node, files bool) error {
	one := func() (uint32, error) {
		x, err := b.take(1)
		if err != nil {
			return 0, err
		}
		return x[0].first, nil
	}
	var err error
	if n.block != nil && n.xattr == 0 {
		if n.xattr, err = one(); err != nil {
			return err
		}
	}
	if files != (n.Mode&TypeMask == TypeFile) {
		return nil
	}
	for range treeBlocks(len(n.mapped())) - len(n.index) {
		x, err := one()
		if err != nil {
			return err
		}
		n.index = append(n.index, x)
	}
	return nil
}

// take takes n blocks: of the first gap that holds them all, or, where there is none, of the largest gaps.
func (b *builder) take(n uint32) ([]extent, error) {
	for i := range b.free {
		if b.free[i].n >= n {
			return []extent{b.cut(i, n)}, nil
		}
	}
	var all []extent
	for n > 0 {
		if len(b.free) == 0 {
			return nil, tooSmall(int64(b.layout.blocks)*BlockSize+int64(n)*BlockSize, int64(b.layout.blocks)*BlockSize)
		}
		largest := slices.MaxFunc(b.free, func(x, y extent) int { return cmp.Or(cmp.Compare(x.n, y.n), cmp.Compare(y.first, x.first)) })
		i := slices.Index(b.free, largest)
		x := b.cut(i, min(n, largest.n))
		all, n = append(all, x), n-x.n
	}
	slices.SortFunc(all, func(x, y extent) int { return cmp.Compare(x.first, y.first) })
	return all, nil
}

// cut takes the first n blocks of a gap.
func (b *builder) cut(i int, n uint32) extent {
	x := extent{first: b.free[i].first, n: n}
	if b.free[i].first, b.free[i].n = x.first+n, b.free[i].n-n; b.free[i].n == 0 {
		b.free = slices.Delete(b.free, i, i+1)
	}
	return x
}

// mapped says which blocks of a file lie where: its pieces, cut where its places end and where an extent can be no longer.
func (n *Node) mapped() []extent {
	type span struct{ at, n uint32 }
	var spans []span
	if n.Mode&TypeMask == TypeFile {
		for _, r := range n.Data {
			x := span{uint32(r.At / BlockSize), uint32((r.Bytes + BlockSize - 1) / BlockSize)}
			if k := len(spans) - 1; k >= 0 && spans[k].at+spans[k].n == x.at {
				spans[k].n += x.n
			} else {
				spans = append(spans, x)
			}
		}
	} else if n.need > 0 {
		spans = []span{{0, n.need}}
	}
	var all []extent
	i, used := 0, uint32(0)
	for _, s := range spans {
		for s.n > 0 && i < len(n.data) {
			count := min(s.n, n.data[i].n-used, maxExtent)
			all = append(all, extent{at: s.at, first: n.data[i].first + used, n: count})
			s.at, s.n, used = s.at+count, s.n-count, used+count
			if used == n.data[i].n {
				i, used = i+1, 0
			}
		}
	}
	return all
}
