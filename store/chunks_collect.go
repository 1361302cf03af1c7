package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"carte/lab"
	"carte/lab/chunk"
)

// grace is how long Collect leaves alone what was put in this process and has not been said to be for anything.
const grace = time.Hour

// claim is who put a manifest and has not settled it.
type claim struct {
	by int
	at time.Time // the last of them
}

// keep holds Collect off a manifest that is being put. c.mu is held.
func (c *Chunks) keep(root chunk.ID, m chunk.Manifest) {
	c.fresh[root] = claim{c.fresh[root].by + 1, time.Now()}
	for _, id := range m.IDs {
		if c.live != nil {
			c.live[id] = true
		}
		delete(c.said, id)
	}
}

// Settle says that one PutManifest of the root has come to its end: its row is there, or there will be none.
func (c *Chunks) Settle(root chunk.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settle(root)
}

// settle is Settle for who holds c.mu.
func (c *Chunks) settle(root chunk.ID) {
	if f := c.fresh[root]; f.by > 1 {
		c.fresh[root] = claim{f.by - 1, f.at}
	} else {
		delete(c.fresh, root)
	}
}

// lasts reports whether a writer may rely on a chunk that is here.
func (c *Chunks) lasts(id chunk.ID) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.has(id) && (c.live == nil || c.live[id] || id.Implied())
}

// Rely is Has for somebody who will not send the chunk because of the answer: it stays for an hour, or until a manifest lists it.
func (c *Chunks) Rely(id chunk.ID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id.Implied() {
		return true
	}
	if !c.has(id) || c.live != nil && !c.live[id] {
		return false
	}
	c.said[id] = time.Now()
	return true
}

// doomed is a pack that can be done without, but for the chunks that are still listed.
type doomed struct {
	p     *pack
	ids   []chunk.ID // that the index finds here, listed or not
	dead  int        // of ids
	needs int64      // bytes that the listed ones take in a pack, with their frames
	files int64      // bytes of pack and index
	other int64      // bytes of the pack that the index finds in another one: second copies
	bad   bool       // one that is not listed is known to be damaged: fsck would find it for ever
}

// frees is by how many bytes the files shrink when the listed chunks move to a pack of their own.
func (d doomed) frees() int64 {
	if d.needs == 0 {
		return d.files
	}
	return d.files - d.needs - int64(len(packMagic)+len(indexMagic)+32+(len(d.ids)-d.dead)*entrySize)
}

// Collect removes the manifests whose root is not in what referenced returns, and the chunks that no manifest lists. A pack with no listed chunk is
// deleted; one of which an eighth or more is not listed, or a damaged chunk, is written anew without that, if there is room; the slack of the others
// stays. Dry, it only says what it would do. Imports and reads go on meanwhile.
//
// referenced is called with the store locked: it must not use it. lab.ErrBusy: chunks are being written, or another Collect or Fsck goes on. A
// manifest that is referenced and cannot be read stops it before anything is removed, because the chunks that it lists are not known.
func (c *Chunks) Collect(ctx context.Context, referenced func() (map[chunk.ID]bool, error), dry bool) (got lab.Collected, err error) {
	if !c.upkeep.TryLock() {
		return got, fmt.Errorf("collect: another carte gc or carte fsck goes on: %w", lab.ErrBusy)
	}
	defer c.upkeep.Unlock()
	begin := time.Now()
	got.Dry = dry
	packs, err := c.mark(ctx, referenced, &got)
	if err != nil {
		return got, fmt.Errorf("collect: %w", err)
	}
	defer c.unmark()
	for _, d := range packs { // those that need the least room first: the disk may be full
		if err := ctx.Err(); err != nil {
			return got, err
		}
		if !dry {
			switch err := c.sweep(ctx, d); {
			case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
				stay(&got, d, "there is no room to write it anew without these")
				continue
			case errors.Is(err, lab.ErrDamaged):
				stay(&got, d, "chunks beside them are damaged: carte fsck")
				continue
			case errors.Is(err, errNeeded):
				continue
			case err != nil:
				return got, fmt.Errorf("collect: pack %d: %w", d.p.number, err)
			}
		}
		got.Chunks += d.dead
		got.Bytes += d.frees()
		got.Copies += d.other
	}
	if got.Copies > 0 {
		got.Notes = append(got.Notes, fmt.Sprintf("%s of it are second copies of chunks, as imports of the same bytes at the same time and mended damage leave them", lab.Bytes(got.Copies)))
	}
	got.Seconds = time.Since(begin).Seconds()
	return got, nil
}

// errNeeded says that a chunk which was about to go is listed now.
var errNeeded = errors.New("a new manifest lists a chunk of it")

// stay notes that a pack keeps its unused chunks.
func stay(got *lab.Collected, d doomed, why string) {
	got.Slack += d.frees()
	got.Notes = append(got.Notes, fmt.Sprintf("pack %d keeps %s that nobody needs: %s", d.p.number, lab.Bytes(d.frees()), why))
}

// mark removes the manifests that nobody needs, lists the chunks of the others, and returns the packs to do without, those that need the least room
// first. Unless it fails or this is a dry run, c.live is set from then on.
func (c *Chunks) mark(ctx context.Context, referenced func() (map[chunk.ID]bool, error), got *lab.Collected) ([]doomed, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return nil, fmt.Errorf("the store is closed: %w", lab.ErrBusy)
	case c.writers > 0:
		return nil, fmt.Errorf("%d imports are being written; nothing was removed, do it again when they are over: %w", c.writers, lab.ErrBusy)
	}
	for root, f := range c.fresh {
		if time.Since(f.at) > grace {
			delete(c.fresh, root)
		}
	}
	needed, err := referenced()
	if err != nil {
		return nil, err
	}
	gone, err := c.unneeded(needed, got)
	if err != nil {
		return nil, err
	}
	live, err := c.listed(ctx, needed)
	if err != nil {
		return nil, fmt.Errorf("%w; nothing was removed, because nobody knows which chunks it needs: import the same file again, or remove the image", err)
	}
	for id, at := range c.said {
		if time.Since(at) > grace {
			delete(c.said, id)
		} else {
			live[id] = true
		}
	}
	for _, root := range gone {
		st, err := os.Stat(c.manifestPath(root))
		if err != nil {
			return nil, err
		}
		got.Bytes += st.Size()
	}
	if got.Manifests = len(gone); !got.Dry {
		if err := c.removeManifests(gone); err != nil {
			return nil, err
		}
		c.live = live
	}
	return c.choose(live, got)
}

// unneeded returns the manifests to remove, and counts those that are kept for their grace. needed gets the latter, too.
func (c *Chunks) unneeded(needed map[chunk.ID]bool, got *lab.Collected) (gone []chunk.ID, err error) {
	roots, err := c.Roots()
	if err != nil {
		return nil, err
	}
	for _, root := range roots {
		if needed[root] {
			continue
		}
		if c.fresh[root].by == 0 {
			gone = append(gone, root)
			continue
		}
		needed[root] = true
		got.Young++
	}
	if got.Young > 0 {
		got.Notes = append(got.Notes, fmt.Sprintf("%d manifests were put less than %v ago and are kept until it is known what for", got.Young, grace))
	}
	return gone, nil
}

// listed returns every chunk that one of the manifests lists.
func (c *Chunks) listed(ctx context.Context, roots map[chunk.ID]bool) (map[chunk.ID]bool, error) {
	listed := map[chunk.ID]bool{}
	for root := range roots {
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

func (c *Chunks) removeManifests(roots []chunk.ID) error {
	for _, root := range roots {
		if err := os.Remove(c.manifestPath(root)); err != nil {
			return err
		}
		c.step("manifest removed")
	}
	if len(roots) == 0 {
		return nil
	}
	return syncDir(c.manifestDir())
}

// choose returns the packs that are worth to be done without. c.mu is held.
func (c *Chunks) choose(live map[chunk.ID]bool, got *lab.Collected) ([]doomed, error) {
	all := map[uint32]*doomed{}
	for n, p := range c.packs {
		st, err := os.Stat(indexPath(c.packDir(), n))
		if err != nil {
			return nil, err
		}
		all[n] = &doomed{p: p, files: p.size + st.Size(), other: p.size - int64(len(packMagic))}
	}
	for id, at := range c.index {
		d := all[at.pack]
		d.ids = append(d.ids, id)
		d.other -= int64(at.len) + int64(chunk.FrameHeader)
		if live[id] {
			d.needs += int64(at.len) + int64(chunk.FrameHeader)
		} else {
			d.dead++
			d.bad = d.bad || c.bad[id]
		}
	}
	var chosen []doomed
	for _, d := range all {
		switch free := d.frees(); {
		case free <= 0:
		case !d.p.born.IsZero() && time.Since(d.p.born) < grace:
			stay(got, *d, fmt.Sprintf("they came less than %v ago", grace))
		case d.needs > 0 && free < d.files/8 && !d.bad:
			got.Slack += free
		default:
			chosen = append(chosen, *d)
		}
	}
	slices.SortFunc(chosen, func(a, b doomed) int {
		return cmp.Or(cmp.Compare(a.needs, b.needs), cmp.Compare(a.p.number, b.p.number))
	})
	return chosen, nil
}

func (c *Chunks) unmark() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.live = nil
}

// sweep moves what is still listed out of a pack, and deletes it.
func (c *Chunks) sweep(ctx context.Context, d doomed) error {
	w, err := c.moveOut(ctx, d)
	if err != nil {
		return err
	}
	if err := c.replace(d, w); err != nil {
		if w != nil {
			err = w.discard(err)
		}
		return err
	}
	return removePack(c.packDir(), d.p.number)
}

// moveOut copies the chunks of a pack that are listed into a new one, and brings that to the disk; nil if there are none. Each is hashed: a damaged
// one is not copied into a pack that would count as newer than a good copy.
func (c *Chunks) moveOut(ctx context.Context, d doomed) (_ *Writer, err error) {
	type part struct {
		id chunk.ID
		place
	}
	var parts []part
	c.mu.Lock()
	for _, id := range d.ids {
		if at := c.index[id]; at.pack == d.p.number && c.live[id] {
			parts = append(parts, part{id, at})
		}
	}
	if len(parts) == 0 {
		c.mu.Unlock()
		return nil, nil
	}
	w, err := c.newWriter()
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	slices.SortFunc(parts, func(a, b part) int { return cmp.Compare(a.off, b.off) })
	stored, raw := make([]byte, chunk.MaxStored), make([]byte, chunk.Size)
	for _, p := range parts {
		if err = ctx.Err(); err != nil {
			break
		}
		b := stored[:p.len]
		if _, err = d.p.f.ReadAt(b, p.off); err != nil {
			err = fmt.Errorf("byte %d: %w: %w", p.off, err, lab.ErrDamaged)
			break
		}
		if _, err = chunk.UnpackAny(raw, b, p.id); err != nil {
			c.doubt(p.id, p.place)
			break
		}
		w.mine[p.id] = true
		if err = w.append(p.id, b); err != nil {
			break
		}
	}
	if err == nil {
		err = w.persist()
	}
	if err != nil {
		return nil, w.discard(err)
	}
	return w, nil
}

// replace makes the copies in w count and forgets the pack, unless a chunk of it is listed that is not in w.
func (c *Chunks) replace(d doomed, w *Writer) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return fmt.Errorf("the store was closed: %w", lab.ErrBusy)
	}
	for _, id := range d.ids {
		if c.index[id].pack == d.p.number && c.live[id] && (w == nil || !w.mine[id]) {
			return errNeeded
		}
	}
	if w != nil {
		c.add(w.p, w.entries)
	}
	for _, id := range d.ids {
		if at, ok := c.index[id]; ok && at.pack == d.p.number {
			delete(c.index, id)
			c.trust(id)
		}
	}
	delete(c.packs, d.p.number)
	c.step("pack forgotten")
	return d.p.f.Close()
}
