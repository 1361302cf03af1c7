package store

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"carte/lab"
	"carte/lab/chunk"
)

// Collect frees the chunks that no manifest lists, and returns how many bytes less the packs occupy. A pack with no such chunk left is deleted; one
// of which less than half is still listed is written anew without the rest. lab.ErrBusy: chunks are being written. A manifest that cannot be read
// stops it before anything is deleted, because the chunks that it lists are not known.
func (c *Chunks) Collect(ctx context.Context) (freed int64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writers > 0 {
		return 0, fmt.Errorf("free unused chunks: %d imports are being written: %w", c.writers, lab.ErrBusy)
	}
	listed, err := c.listed(ctx)
	if err != nil {
		return 0, fmt.Errorf("free unused chunks: %w", err)
	}
	live := map[uint32][]chunk.ID{}
	bytes := map[uint32]int64{}
	for id, at := range c.index {
		if listed[id] {
			live[at.pack] = append(live[at.pack], id)
			bytes[at.pack] += int64(at.len) + int64(chunk.FrameHeader)
		}
	}
	for _, n := range slices.Sorted(maps.Keys(c.packs)) { // not over the map itself: rewrite adds to it
		p := c.packs[n]
		if err := ctx.Err(); err != nil {
			return freed, err
		}
		if bytes[n] >= p.size/2 {
			continue
		}
		freed += p.size
		moved, err := c.rewrite(live[n])
		if err != nil {
			return freed - p.size, fmt.Errorf("free unused chunks of pack %d: %w", n, err)
		}
		freed -= moved
		if err := c.drop(p); err != nil {
			return freed, fmt.Errorf("free unused chunks: remove pack %d: %w", n, err)
		}
	}
	return freed, nil
}

// listed returns every chunk that a manifest lists.
func (c *Chunks) listed(ctx context.Context) (map[chunk.ID]bool, error) {
	roots, err := c.Roots()
	if err != nil {
		return nil, err
	}
	listed := map[chunk.ID]bool{}
	for _, root := range roots {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		m, err := c.Manifest(root)
		if err != nil {
			return nil, err
		}
		for _, id := range m.IDs {
			listed[id] = true
		}
	}
	return listed, nil
}

// rewrite copies chunks into a new pack and makes that the one that counts. The stored forms are copied as they are: a damaged chunk stays damaged
// and is found when it is used. c.mu is held.
func (c *Chunks) rewrite(ids []chunk.ID) (int64, error) {
	if len(ids) == 0 {
		return 0, nil
	}
	w, err := c.newWriter()
	if err != nil {
		return 0, err
	}
	var buf []byte
	for _, id := range ids {
		if buf, err = c.readLocked(id, buf); err != nil {
			break
		}
		if err = w.append(id, buf); err != nil {
			break
		}
	}
	if err == nil {
		err = w.persist()
	}
	if err != nil {
		return 0, w.discard(err)
	}
	bad := c.bad
	c.bad = map[chunk.ID]bool{} // add would take the copies for mended ones
	c.add(w.p, w.entries)
	c.bad = bad
	return w.p.size, nil
}

// drop forgets a pack and deletes it, index first. c.mu is held.
func (c *Chunks) drop(p *pack) error {
	for id, at := range c.index {
		if at.pack == p.number {
			delete(c.index, id)
			delete(c.bad, id)
		}
	}
	delete(c.packs, p.number)
	c.step("pack forgotten")
	if err := p.f.Close(); err != nil {
		return err
	}
	return removePack(c.packDir(), p.number)
}
