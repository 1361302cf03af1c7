package store

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"carte/lab"
	"carte/lab/chunk"
)

// Writer adds chunks in one go: all of them become visible with Commit, or none. It has a pack of its own, so any number of writers can be at work.
// Of two that store the same chunks at the same time, the later to end with CommitManifest drops its copy, if all of its chunks are here by then; else
// each keeps one, and Collect takes what is twice. Its methods may be called from any number of goroutines.
type Writer struct {
	c *Chunks
	p *pack

	mu      sync.Mutex
	w       *bufio.Writer
	off     int64
	mine    map[chunk.ID]bool
	entries []entry
	started int64 // up to where the disk was told to write
	err     error // the first failure
	done    bool  // committed or aborted
	stored  int   // chunks, once it is committed
	mended  int   // of stored: of which the lab had a damaged copy, or none although a manifest lists them
	lost    int   // of stored: of which the lab had no copy when they were committed
}

// writeAhead is after how many bytes of a pack the disk is told to begin writing them.
const writeAhead = 8 << 20

var errWriterClosed = errors.New("BUG: the chunk writer is already committed or aborted")

// Writer begins to add chunks. End it with Commit, CommitManifest or Abort.
func (c *Chunks) Writer() (*Writer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w, err := c.newWriter()
	if err == nil {
		c.writers++
	}
	return w, err
}

// newWriter makes the next pack. c.mu is held.
func (c *Chunks) newWriter() (*Writer, error) {
	if c.closed {
		return nil, fmt.Errorf("write chunks: the store is closed: %w", lab.ErrBusy)
	}
	n := c.next
	f, err := os.OpenFile(packPath(c.packDir(), n), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("new pack: %w", full(err))
	}
	c.next++
	w := &Writer{c: c, p: &pack{number: n, f: f}, w: bufio.NewWriterSize(f, 1<<20), off: int64(len(packMagic)), mine: map[chunk.ID]bool{}}
	if _, err := io.WriteString(w.w, packMagic); err != nil {
		panic("BUG: an empty buffer is full")
	}
	return w, nil
}

// Put adds a chunk that came from elsewhere, in its stored form, after checking that it is what id says. A chunk that is already visible, or that
// this writer was given before, is not stored again: fresh says whether it was stored. lab.ErrDamaged: the bytes are not that chunk; the writer
// can go on.
func (w *Writer) Put(id chunk.ID, stored []byte) (fresh bool, err error) {
	if id.Implied() {
		return false, nil
	}
	buf := storedBuffers.Get().(*[]byte)
	defer storedBuffers.Put(buf)
	if _, err := chunk.UnpackAny(*buf, stored, id); err != nil {
		return false, err
	}
	if !w.claim(id) {
		return false, nil
	}
	return true, w.append(id, stored)
}

// claim says whether the caller shall append the chunk: true once for each chunk that is not here yet.
func (w *Writer) claim(id chunk.ID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.done || w.mine[id] || w.c.lasts(id) {
		return false
	}
	w.mine[id] = true
	return true
}

// append writes a chunk that was claimed and is known to be what id says.
func (w *Writer) append(id chunk.ID, stored []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return w.err
	}
	if err := chunk.WriteFrame(w.w, id, stored); err != nil {
		w.err = fmt.Errorf("keep the bytes: %w", full(cause(err)))
		return w.err
	}
	w.off += int64(chunk.FrameHeader)
	w.entries = append(w.entries, entry{id: id, off: w.off, len: uint32(len(stored))})
	w.off += int64(len(stored))
	if at := w.off - int64(w.w.Buffered()); at-w.started >= writeAhead {
		// A hint: the disk is busy while the cores are, and Commit has less to wait for.
		_ = unix.SyncFileRange(int(w.p.f.Fd()), w.started, at-w.started, unix.SYNC_FILE_RANGE_WRITE)
		w.started = at
	}
	return nil
}

// Commit makes the chunks visible: sync pack, index, sync. If it fails nothing is visible and nothing is left. A writer that stored nothing leaves
// no files.
func (w *Writer) Commit() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.done {
		return errWriterClosed
	}
	defer w.close()
	if w.err == nil && len(w.entries) == 0 {
		return w.discard(nil)
	}
	if err := w.persist(); err != nil {
		return w.discard(fmt.Errorf("keep the bytes: %w", full(err)))
	}
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	if w.c.closed {
		return w.discard(fmt.Errorf("keep the bytes: the lab was closed meanwhile: %w", lab.ErrBusy))
	}
	w.p.born = time.Now()
	w.stored = len(w.entries)
	for _, e := range w.entries {
		if w.c.bad[e.id] {
			w.mended++
		} else if _, here := w.c.index[e.id]; !here {
			w.lost++
		}
	}
	w.c.add(w.p, w.entries)
	return nil
}

// persist brings the pack and then its index to the disk.
func (w *Writer) persist() error {
	if w.err != nil {
		return w.err
	}
	if err := w.w.Flush(); err != nil {
		return err
	}
	w.c.step("pack written")
	if err := w.p.f.Sync(); err != nil {
		return err
	}
	w.c.step("pack synced")
	if err := writeDurably(indexPath(w.c.packDir(), w.p.number), encodeIndex(w.entries)); err != nil {
		return err
	}
	w.c.step("index written")
	w.p.size = w.off
	return nil
}

// discard deletes the pack that nobody has seen, and returns why together with what went wrong at that.
func (w *Writer) discard(why error) error {
	return errors.Join(why, w.p.f.Close(), removePack(w.c.packDir(), w.p.number))
}

// CommitManifest commits the chunks and then the manifest that lists them, with no gap in which Collect could take them. It returns the root.
func (w *Writer) CommitManifest(m chunk.Manifest) (chunk.ID, error) {
	w.c.hold(1)
	defer w.c.hold(-1)
	_, lacked := w.c.Manifest(m.Root())
	w.dropCopies()
	if err := w.Commit(); err != nil {
		return chunk.ID{}, err
	}
	if lacked == nil { // it was listed already, and all of it should have been here
		w.mended += w.lost
	}
	root, err := w.c.PutManifest(m)
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	w.p.born = time.Time{} // the manifest says what is needed of it; where there is none the next Collect takes it, as the disk may be full
	return root, err
}

// CommitManifests is CommitManifest for several. After an error none of them is to be settled.
func (w *Writer) CommitManifests(all []chunk.Manifest) error {
	w.c.hold(1)
	defer w.c.hold(-1)
	w.dropCopies()
	if err := w.Commit(); err != nil {
		return err
	}
	var put []chunk.ID
	var err error
	for _, m := range all {
		var root chunk.ID
		if root, err = w.c.PutManifest(m); err != nil {
			break
		}
		put = append(put, root)
	}
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	w.p.born = time.Time{}
	if err != nil {
		for _, root := range put { // one that lay here before stays; the others go with the next Collect
			w.c.settle(root)
		}
	}
	return err
}

// dropCopies has nothing stored where another writer has brought all of the chunks meanwhile. It is for who holds Collect off until a manifest
// lists them.
func (w *Writer) dropCopies() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil || w.done || slices.ContainsFunc(w.entries, func(e entry) bool { return !w.c.lasts(e.id) }) {
		return
	}
	w.entries = nil
}

// hold counts work that Collect must wait for.
func (c *Chunks) hold(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writers += n
}

// Abort drops everything that the writer was given. After Commit it does nothing, so that it can be deferred.
func (w *Writer) Abort() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.done {
		return nil
	}
	defer w.close()
	return w.discard(nil)
}

func (w *Writer) close() {
	w.done, w.err = true, errWriterClosed
	w.mine, w.entries = nil, nil
	w.c.hold(-1)
}

// cause is what the disk said, without the chunk on whose way it was.
func cause(err error) error {
	var of *fs.PathError
	if errors.As(err, &of) {
		return of
	}
	return err
}

// full adds to "no space left" what to do.
func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: the disk is full: free some space (carte image rm, then carte gc) and do it again", err)
	}
	return err
}
