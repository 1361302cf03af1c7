package netboot

import (
	"bufio"
	"net/http"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"carte/lab/chunk"
)

// hotBytes is how much of stored chunks is kept in memory. Machines that boot the same image together are not far apart.
const hotBytes = 64 << 20

// seenChunks is how many names are remembered of chunks that were asked for once: a gigabyte or so of an image.
const seenChunks = 8192

// A bufferedSource reads into memory that is used again.
type bufferedSource interface {
	// StoredTo is Stored, in dst where its capacity suffices.
	StoredTo(id chunk.ID, dst []byte) ([]byte, error)
}

// An aheadSource begins to read what will be asked for, in the order in which it lies on the disk.
type aheadSource interface{ Ahead(ids []chunk.ID) }

// hot keeps the chunks that more than one machine asks for. A chunk is kept when it is asked for the second time: one machine that reads its image
// from end to end pushes nothing out and leaves no garbage. What does not hash is never kept, so that asking again reads again.
type hot struct {
	source   ChunkSource
	buffered bufferedSource // nil: source has none
	ahead    aheadSource    // nil: source has none

	mu    sync.Mutex
	kept  *simplelru.LRU[chunk.ID, []byte]
	bytes int // of kept
	seen  *simplelru.LRU[chunk.ID, struct{}]
	begun map[chunk.ID]bool // being read to be kept: the others that ask meanwhile leave no garbage
}

func newHot(source ChunkSource) *hot {
	h := &hot{source: source, begun: map[chunk.ID]bool{}}
	h.buffered, _ = source.(bufferedSource)
	h.ahead, _ = source.(aheadSource)
	var err error
	if h.kept, err = simplelru.NewLRU(1<<30, func(_ chunk.ID, b []byte) { h.bytes -= len(b) }); err == nil {
		h.seen, err = simplelru.NewLRU[chunk.ID, struct{}](seenChunks, nil)
	}
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return h
}

// look returns the chunk if it is kept. keep says that it was asked for before, not long ago, and that the caller shall read it and end with keep.
func (h *hot) look(id chunk.ID) (stored []byte, keep bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if b, ok := h.kept.Get(id); ok {
		return b, false
	}
	if !h.seen.Contains(id) {
		h.seen.Add(id, struct{}{})
		return nil, false
	}
	if h.begun[id] {
		return nil, false
	}
	h.begun[id] = true
	return nil, true
}

// keep takes a chunk over, and lets the oldest go; nil is one that could not be had.
func (h *hot) keep(id chunk.ID, stored []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if delete(h.begun, id); stored == nil {
		return
	}
	h.kept.Add(id, stored)
	h.seen.Remove(id)
	for h.bytes += len(stored); h.bytes > hotBytes; {
		h.kept.RemoveOldest()
	}
}

// raws holds memory to hash chunks in, and to read those that are not kept.
var raws = sync.Pool{New: func() any { b := make([]byte, 0, chunk.MaxStored); return &b }}

// stored returns a chunk in its stored form; valid until buf, which it may use, is written to.
func (h *hot) stored(id chunk.ID, buf []byte) ([]byte, error) {
	b, keep := h.look(id)
	switch {
	case b != nil:
		return b, nil
	case !keep && h.buffered != nil:
		return h.buffered.StoredTo(id, buf)
	}
	b, err := h.source.Stored(id)
	if !keep {
		return b, err
	}
	raw := raws.Get().(*[]byte)
	defer raws.Put(raw)
	sound := b
	if err != nil {
		sound = nil
	} else if _, damaged := chunk.UnpackAny(*raw, b, id); damaged != nil {
		sound = nil
	}
	h.keep(id, sound)
	return b, err
}

// readAhead tells the source what is about to be asked for and is not kept.
func (h *hot) readAhead(ids []chunk.ID) {
	if h.ahead == nil {
		return
	}
	var want []chunk.ID
	h.mu.Lock()
	for _, id := range ids {
		if !h.kept.Contains(id) {
			want = append(want, id)
		}
	}
	h.mu.Unlock()
	if len(want) > 1 {
		h.ahead.Ahead(want)
	}
}

// writers holds buffers for answers.
var writers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, 64<<10) }}

// sendChunks sends chunks as frames in the order in which they were asked for. It returns an error for a client that has got nothing yet; later the
// connection is cut: half an answer must not look like a whole one.
func (s *Server) sendChunks(w http.ResponseWriter, ids []chunk.ID) error {
	s.hot.readAhead(ids)
	out := writers.Get().(*bufio.Writer)
	out.Reset(w)
	buf := raws.Get().(*[]byte)
	defer func() {
		out.Reset(nil)
		writers.Put(out)
		raws.Put(buf)
	}()
	for i, id := range ids {
		stored, err := s.hot.stored(id, *buf)
		switch {
		case err != nil && i == 0:
			return err
		case err != nil:
			s.cfg.Log.Error("api: chunk", "id", id, "err", err)
			panic(http.ErrAbortHandler)
		case i == 0:
			w.Header().Set("Content-Type", "application/octet-stream")
		}
		if chunk.WriteFrame(out, id, stored) != nil {
			panic(http.ErrAbortHandler)
		}
	}
	if out.Flush() != nil {
		panic(http.ErrAbortHandler)
	}
	return nil
}
