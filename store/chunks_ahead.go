package store

import (
	"cmp"
	"slices"

	"golang.org/x/sys/unix"

	"carte/lab/chunk"
)

// Ahead asks the kernel to read chunks that will be asked for soon, in the order in which they lie in the packs, whatever order they come in. It
// waits for nothing and keeps nothing in this process; chunks that are not here do not matter.
func (c *Chunks) Ahead(ids []chunk.ID) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.closed {
		return
	}
	all := make([]place, 0, len(ids))
	for _, id := range ids {
		if at, ok := c.index[id]; ok {
			all = append(all, at)
		}
	}
	slices.SortFunc(all, func(a, b place) int { return cmp.Or(cmp.Compare(a.pack, b.pack), cmp.Compare(a.off, b.off)) })
	for len(all) > 0 {
		first, end := all[0], all[0].off+int64(all[0].len)
		n := 1
		for ; n < len(all) && all[n].pack == first.pack && all[n].off-end <= chunk.Size; n++ { // a small gap is read over
			end = all[n].off + int64(all[n].len)
		}
		// A hint: a file system that cannot take it reads when it is asked.
		_ = unix.Fadvise(int(c.packs[first.pack].f.Fd()), first.off, end-first.off, unix.FADV_WILLNEED)
		all = all[n:]
	}
}
