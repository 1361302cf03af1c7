package agent

import (
	"slices"

	"carte/lab"
	"carte/lab/chunk"
)

// postpone leaves for later what of lazy layers the wire would have to bring; what this machine has is laid now.
func (f *flash) postpone(t *todo) {
	t.fetch = false
	for k := range f.parts {
		p := &f.parts[k]
		for i, s := range p.state {
			id := p.IDs[i]
			if s.settled() || id.IsZero() {
				continue
			}
			if !p.Lazy || f.mayBeNear(id) {
				t.fetch = true
				continue
			}
			p.state[i] = later
			t.later += int64(p.Len(i))
			t.write -= int64(p.Len(i))
			t.chunks--
		}
	}
}

// mayBeNear says whether a chunk is worth being looked for on this machine.
func (f *flash) mayBeNear(id chunk.ID) bool {
	return slices.ContainsFunc(f.nearby, func(n near) bool {
		h, ok := n.(interface{ Has(id chunk.ID) bool })
		return ok && h.Has(id)
	})
}

// stillLazy returns the writes of a flash that has ended well: of them, those are lazy of which something is still to come.
func (f *flash) stillLazy() (all []lab.Write) {
	for _, p := range f.parts {
		p.Lazy = slices.Contains(p.state, later)
		all = append(all, p.Write)
	}
	return all
}
