package store

import (
	"context"
	"fmt"
	"io"
	"sort"

	"carte/lab/chunk"
	"carte/lab/layout"
)

// What a stream holds is known only when all of it has been stored. Nothing of that is visible yet, so what nobody needs is taken out again before it
// ever is.

// trim maps what was stored and, unless it is to be kept whole, leaves out what is not needed.
func (im *importer) trim(ctx context.Context) (layout.Map, error) {
	stored := &unseen{w: im.w}
	found, err := layout.Read(ctx, io.NewSectionReader(&imageReader{get: stored.get, m: im.m, have: -1}, 0, im.m.Size), im.m.Size)
	if err != nil || im.in.Whole || len(found.Free)+len(found.Stale) == 0 {
		return found, err
	}
	raw, packed := make([]byte, 0, chunk.Size), make([]byte, 0, chunk.MaxStored)
	for i, id := range im.m.IDs {
		off, n := int64(i)*chunk.Size, im.m.Len(i)
		switch {
		case ctx.Err() != nil:
			return found, context.Cause(ctx)
		case found.Cover(off, int64(n)):
			im.m.IDs[i] = chunk.Free
		case id.IsZero(), !touches(found.Free, off, n) && !touches(found.Stale, off, n):
		default:
			b, err := stored.get(id, raw)
			if err != nil {
				return found, err
			}
			if !found.Blank(b, off) {
				continue
			}
			im.m.IDs[i] = chunk.ID{}
			if packed, err = im.take(i, b, packed); err != nil {
				return found, err
			}
		}
	}
	listed := make(map[chunk.ID]bool, len(im.m.IDs))
	for _, id := range im.m.IDs {
		listed[id] = true
	}
	im.stats.NewChunks, im.stats.New, err = im.w.keepOnly(listed)
	return found, err
}

// touches says whether a list of extents has one of the n bytes at off.
func touches(list []layout.Extent, off int64, n int) bool {
	i := sort.Search(len(list), func(i int) bool { return list[i].Off+list[i].Bytes > off })
	return i < len(list) && list[i].Off < off+int64(n)
}

// unseen reads chunks of which some are visible and some were appended by a writer that is not committed.
type unseen struct {
	w      *Writer
	known  int // entries of w that are in places
	places map[chunk.ID]entry
}

// get is Chunks.Get.
func (u *unseen) get(id chunk.ID, dst []byte) ([]byte, error) {
	e, ok, err := u.find(id)
	if err != nil {
		return nil, err
	}
	if !ok {
		return u.w.c.Get(id, dst)
	}
	buf := storedBuffers.Get().(*[]byte)
	defer storedBuffers.Put(buf)
	b := (*buf)[:e.len]
	if _, err := u.w.p.f.ReadAt(b, e.off); err != nil {
		return nil, fmt.Errorf("chunk %v, stored just now: %w", id, short(err))
	}
	return chunk.UnpackAny(dst, b, id)
}

func (u *unseen) find(id chunk.ID) (e entry, ok bool, err error) {
	u.w.mu.Lock()
	defer u.w.mu.Unlock()
	if u.places == nil {
		u.places = map[chunk.ID]entry{}
	}
	for ; u.known < len(u.w.entries); u.known++ {
		e := u.w.entries[u.known]
		u.places[e.id] = e
	}
	if e, ok = u.places[id]; ok && u.w.w.Buffered() > 0 {
		if err := u.w.w.Flush(); err != nil {
			return e, ok, fmt.Errorf("keep the bytes: %w", full(err))
		}
	}
	return e, ok, nil
}

// keepOnly takes out of the pack, which nobody has seen, what is not listed, if that is an eighth of it or more. It returns how many chunks of the
// writer are listed, and the bytes they take.
func (w *Writer) keepOnly(listed map[chunk.ID]bool) (n int, size int64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return 0, 0, w.err
	}
	for _, e := range w.entries {
		if listed[e.id] {
			n, size = n+1, size+int64(e.len)+int64(chunk.FrameHeader)
		}
	}
	if w.off-size-int64(len(packMagic)) < w.off/8 {
		return n, size, nil
	}
	if err := w.shrink(listed); err != nil {
		w.err = fmt.Errorf("keep the bytes: %w", full(err))
	}
	return n, size, w.err
}

// shrink moves the frames of listed chunks towards the beginning, and cuts the file. w.mu is held.
func (w *Writer) shrink(listed map[chunk.ID]bool) error {
	if err := w.w.Flush(); err != nil {
		return err
	}
	to, kept := int64(len(packMagic)), w.entries[:0]
	buf := make([]byte, chunk.FrameHeader+chunk.MaxStored)
	for _, e := range w.entries {
		if !listed[e.id] {
			delete(w.mine, e.id)
			continue
		}
		frame := buf[:chunk.FrameHeader+int(e.len)]
		if from := e.off - int64(chunk.FrameHeader); from != to {
			if _, err := w.p.f.ReadAt(frame, from); err != nil {
				return short(err)
			}
			if _, err := w.p.f.WriteAt(frame, to); err != nil {
				return err
			}
		}
		kept = append(kept, entry{id: e.id, off: to + int64(chunk.FrameHeader), len: e.len})
		to += int64(len(frame))
	}
	w.entries, w.off = kept, to
	if err := w.p.f.Truncate(to); err != nil {
		return err
	}
	_, err := w.p.f.Seek(to, io.SeekStart)
	return err
}
