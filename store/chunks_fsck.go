package store

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"carte/lab"
	"carte/lab/chunk"
)

// spot is where a chunk is.
type spot struct {
	id chunk.ID
	place
}

// Fsck hashes every chunk that counts again, and the frame around it, and checks indexes and the manifests of the versions. A damaged chunk of which
// another pack has a good copy, or of which only the frame is damaged, is stored again; an index is written again. What cannot be mended counts as
// absent from then on, so that the next import of the same bytes stores it again.
//
// versions is called when no Collect goes on any more: none takes from then on what they list. progress, if not nil, is told stored bytes. Damage is
// no error. lab.ErrBusy: a Collect or another Fsck goes on.
func (c *Chunks) Fsck(ctx context.Context, versions func() ([]lab.Version, error), progress func(done, of int64)) (got lab.Fscked, err error) {
	if !c.upkeep.TryLock() {
		return got, fmt.Errorf("fsck: another carte gc or carte fsck goes on: %w", lab.ErrBusy)
	}
	defer c.upkeep.Unlock()
	begin := time.Now()
	all, err := versions()
	if err != nil {
		return got, fmt.Errorf("fsck: %w", err)
	}
	k := &checker{c: c, progress: progress}
	k.plan()
	if err := k.Run(ctx); err != nil {
		return got, fmt.Errorf("fsck: %w", err)
	}
	got.Chunks, got.Bytes = len(k.todo), k.done
	if got.Notes, err = c.mendIndexes(k.todo); err != nil {
		return got, fmt.Errorf("fsck: %w", err)
	}
	broken := c.judge(k.todo, k.bad)
	damaged := len(broken)
	if got.Mended, err = c.mend(broken); err != nil {
		got.Notes = append(got.Notes, fmt.Sprintf("nothing could be mended: %v", err))
	}
	if err := c.noteDamaged(); err != nil {
		got.Notes = append(got.Notes, err.Error())
	}
	got.Broken = c.hurt(all, broken)
	for _, b := range got.Broken {
		if b.What == "chunk" && b.Why == "missing" {
			damaged++
		}
	}
	got.Damaged = damaged
	got.Seconds = time.Since(begin).Seconds()
	return got, nil
}

// checker hashes chunks on all cores.
type checker struct {
	c        *Chunks
	todo     []spot // in the order of the disk
	progress func(done, of int64)

	mu       sync.Mutex
	done, of int64
	bad      []spot
}

func (k *checker) plan() {
	k.c.mu.RLock()
	defer k.c.mu.RUnlock()
	for id, at := range k.c.index {
		k.todo = append(k.todo, spot{id, at})
		k.of += int64(at.len) + int64(chunk.FrameHeader)
	}
	slices.SortFunc(k.todo, func(a, b spot) int { return cmp.Or(cmp.Compare(a.pack, b.pack), cmp.Compare(a.off, b.off)) })
}

// Run hands out the chunks in order; each worker reads and hashes one. They have ended when it returns.
func (k *checker) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := make(chan spot)
	var all sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		all.Go(func() {
			frame, raw := make([]byte, chunk.FrameHeader+chunk.MaxStored), make([]byte, chunk.Size)
			for s := range work {
				if err := k.one(s, frame, raw); err != nil {
					cancel(err)
				}
			}
		})
	}
	for _, s := range k.todo {
		select {
		case work <- s:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(work)
	all.Wait()
	return context.Cause(ctx)
}

func (k *checker) one(s spot, frame, raw []byte) error {
	_, whole, err := k.c.readFrame(s, frame, raw)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.done += int64(s.len) + int64(chunk.FrameHeader)
	if !whole {
		k.bad = append(k.bad, s)
	}
	if k.progress != nil {
		k.progress(k.done, k.of)
	}
	return nil
}

// readFrame reads a chunk with its frame. stored is nil unless it is what its name promises; whole says that the frame, too, is right. A disk that
// cannot read it is the same as damage.
func (c *Chunks) readFrame(s spot, frame, raw []byte) (stored []byte, whole bool, err error) {
	b := frame[:chunk.FrameHeader+int(s.len)]
	c.mu.RLock()
	p, ok := c.packs[s.pack]
	if !ok || c.closed {
		c.mu.RUnlock()
		return nil, false, fmt.Errorf("the store was closed: %w", lab.ErrBusy)
	}
	_, err = p.f.ReadAt(b, s.off-int64(chunk.FrameHeader))
	c.mu.RUnlock()
	if err != nil {
		return nil, false, nil
	}
	head, stored := b[:chunk.FrameHeader], b[chunk.FrameHeader:]
	if _, err := chunk.UnpackAny(raw, stored, s.id); err != nil {
		return nil, false, nil
	}
	whole = bytes.Equal(head[:len(s.id)], s.id[:]) && binary.LittleEndian.Uint32(head[len(s.id):]) == s.len
	return stored, whole, nil
}

// mendIndexes writes the indexes again that a broken disk has changed under us, and says so.
func (c *Chunks) mendIndexes(known []spot) (notes []string, err error) {
	byPack := map[uint32][]entry{}
	for _, s := range known {
		byPack[s.pack] = append(byPack[s.pack], entry{s.id, s.off, s.len})
	}
	for n, entries := range byPack {
		path := indexPath(c.packDir(), n)
		b, err := os.ReadFile(path)
		if _, ok := decodeIndex(b); err == nil && ok {
			continue
		}
		if err := writeDurably(path, encodeIndex(entries)); err != nil {
			return notes, fmt.Errorf("index of pack %d: %w", n, full(err))
		}
		notes = append(notes, fmt.Sprintf("the index of pack %d was damaged and is written again", n))
	}
	return notes, nil
}

// judge makes the chunks that were found damaged count as absent, and those that were found sound count again. It returns the former; not those of
// which another copy counts since.
func (c *Chunks) judge(all, damaged []spot) map[chunk.ID]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	broken := map[chunk.ID]bool{}
	for _, s := range damaged {
		if c.index[s.id] == s.place {
			broken[s.id] = true
			c.doubtLocked(s.id, s.place)
		}
	}
	for _, s := range all {
		if !broken[s.id] && c.index[s.id] == s.place {
			c.trust(s.id)
		}
	}
	return broken
}

// mend stores broken chunks again of which there is a good copy, takes them out of broken, and returns how many.
func (c *Chunks) mend(broken map[chunk.ID]bool) (mended int, err error) {
	if len(broken) == 0 {
		return 0, nil
	}
	w, err := c.Writer()
	if err != nil {
		return 0, err
	}
	defer w.Abort()
	frame, raw := make([]byte, chunk.FrameHeader+chunk.MaxStored), make([]byte, chunk.Size)
	var found []chunk.ID
	err = c.copies(broken, func(s spot) error {
		stored, _, err := c.readFrame(s, frame, raw)
		if err != nil || stored == nil {
			return err
		}
		fresh, err := w.Put(s.id, stored)
		if fresh {
			found = append(found, s.id)
		}
		return err
	})
	if err == nil {
		err = w.Commit()
	}
	if err != nil {
		return 0, err
	}
	for _, id := range found {
		delete(broken, id)
	}
	return len(found), nil
}

// Mend stores chunks that came from elsewhere until next returns io.EOF, in a pack of their own, and returns those that are whole now. What does not
// hash is passed over. An error keeps nothing.
func (c *Chunks) Mend(next func() (chunk.ID, []byte, error)) (whole []chunk.ID, err error) {
	w, err := c.Writer()
	if err != nil {
		return nil, err
	}
	defer w.Abort()
	for {
		id, stored, err := next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		switch _, err := w.Put(id, stored); {
		case errors.Is(err, lab.ErrDamaged):
		case err != nil:
			return nil, err
		default:
			whole = append(whole, id)
		}
	}
	return whole, w.Commit()
}

// copies calls each with every place that any index names for one of the chunks.
func (c *Chunks) copies(of map[chunk.ID]bool, each func(spot) error) error {
	numbers, err := packNumbers(c.packDir())
	if err != nil {
		return err
	}
	for _, n := range numbers {
		c.mu.RLock()
		_, ours := c.packs[n]
		c.mu.RUnlock()
		b, err := os.ReadFile(indexPath(c.packDir(), n))
		entries, ok := decodeIndex(b)
		if err != nil || !ok || !ours {
			continue
		}
		for _, e := range entries {
			if !of[e.id] {
				continue
			}
			if err := each(spot{e.id, place{pack: n, off: e.off, len: e.len}}); err != nil {
				return err
			}
		}
	}
	return nil
}

// hurt lists what is broken, with the versions that need it: damaged chunks, chunks that are missing, and manifests.
func (c *Chunks) hurt(versions []lab.Version, damaged map[chunk.ID]bool) []lab.Broken {
	all := map[chunk.ID]*lab.Broken{}
	note := func(what string, id chunk.ID, why string) *lab.Broken {
		if all[id] == nil {
			all[id] = &lab.Broken{What: what, ID: id, Why: why, Versions: []lab.Ref{}}
		}
		return all[id]
	}
	for id := range damaged {
		note("chunk", id, "damaged")
	}
	for _, v := range versions {
		m, err := c.Manifest(v.Root)
		if err != nil {
			why := "damaged"
			if errors.Is(err, lab.ErrNotFound) {
				why = "missing"
			}
			b := note("manifest", v.Root, why)
			b.Versions = append(b.Versions, v.Ref())
			continue
		}
		for _, id := range m.IDs {
			if !damaged[id] && c.present(id) {
				continue
			}
			b := note("chunk", id, "missing")
			if n := len(b.Versions); n == 0 || b.Versions[n-1] != v.Ref() {
				b.Versions = append(b.Versions, v.Ref())
			}
		}
	}
	list := []lab.Broken{}
	for _, b := range all {
		list = append(list, *b)
	}
	slices.SortFunc(list, func(a, b lab.Broken) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return list
}

// present reports whether an index names the chunk, sound or not.
func (c *Chunks) present(id chunk.ID) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	_, ok := c.index[id]
	return ok || id.Implied()
}
