package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"carte/lab"
	"carte/lab/chunk"
)

// What may be relied upon at any moment, also when the power fails between any two steps:
//
//  1. A chunk is visible only if a synced index file names it in a synced pack file.
//  2. A manifest exists only if every chunk it lists is visible. A version's row (not this file's business) exists only if its manifest does.
//  3. Nothing that is visible is ever changed in place: files are written beside, synced, renamed; packs are only appended to before they are visible.
//  4. No content leaves by Get, Export or Verify unless its hash matched in the very buffer that leaves.
//
//  5. Collect removes no manifest that a version or a boot that is not over refers to, and no chunk that a manifest lists.
//
// So an import goes: chunks -> sync pack -> write and sync index -> rename index, sync folder -> manifest in the same way -> row. Removal goes
// the other way round: row -> manifest -> index -> pack. What a crash leaves after each step, and what the next OpenChunks does:
//
//	a pack without an index         the import died: the pack is deleted
//	a *.tmp file                    the rename did not happen: it is deleted
//	pack and index, no manifest     chunks that nobody lists: kept, the next import of the same bytes finds them; Collect deletes them
//	manifest, no row                the same, until Remove and Collect
//	an index without its pack       only a broken disk or a half-done removal: the index is deleted
//	a pack that is too short        only a disk that lies about sync: what is cut off is not visible, and is stored again by the next import
//	an index that does not check    a broken disk: it is made again from the pack, whose frames name their chunks
//	a chunk that does not hash      found by Get, Verify or Fsck: it counts as absent, also for the next process (chunks_damaged.go), so that the next
//	                                import stores it again; the newest pack wins
//
// One process at a time: the lock on the lab's state folder is held by whoever opens it. Whoever is between two steps of an import is therefore in
// this process, and what protects those steps from Collect can be in memory, on a clock that is never set:
//
//	chunk claimed, pack not committed     Collect refuses while a Writer is open; a Writer that begins while Collect works relies on no chunk that
//	                                      Collect may take: it stores a copy of its own
//	chunk not sent, as it is here         whoever is told so by Rely finds it there for an hour; whoever is told by Has may find it gone, and learns that
//	                                      from PutManifest, which checks under the lock that all are here
//	pack committed, no manifest yet       (chunks that come in several requests) such a pack is left alone for an hour
//	manifest put, no row yet              a manifest is kept for an hour after each PutManifest, also of one that was there before, or until Settle
//	row said, then settled                Collect asks for the rows after it has looked at what is not settled, with the lock held in between
//	manifest put while Collect works      its chunks count as listed from then on
//
// After a restart nobody is between two steps, and nothing needs that hour.

// Chunks keeps the bytes of all images of a lab, each chunk once, in dir/packs, and what each version is made of in dir/manifests.
// Its methods may be called from any number of goroutines.
type Chunks struct {
	dir string

	mu      sync.RWMutex // held for reading while a pack is read, so that no pack is closed meanwhile
	index   map[chunk.ID]place
	packs   map[uint32]*pack
	next    uint32            // the number of the next pack
	bad     map[chunk.ID]bool // found damaged: still in index, but to be stored again
	writers int               // not yet committed or aborted
	closed  bool
	fresh   map[chunk.ID]claim     // manifests that were put and not settled
	said    map[chunk.ID]time.Time // chunks that somebody was told not to send
	live    map[chunk.ID]bool      // while Collect works: the chunks that are listed; it only grows
	upkeep  sync.Mutex             // held by Collect and Fsck: no pack leaves while it is
	noting  sync.Mutex             // held while bad is brought to the disk
	unnoted bool                   // bad is not what the disk says
	noted   time.Time              // when a read last had it noted

	step func(name string) // tests: called between the steps of an import or a removal
}

// place is where a chunk's stored form lies.
type place struct {
	pack uint32
	len  uint32 // of the stored form, without the frame's header
	off  int64  // of the stored form in the pack file
}

// OpenChunks opens the chunks in dir, makes the folder where it does not exist, and clears away what a crash has left. Close it.
func OpenChunks(dir string) (*Chunks, error) {
	c := &Chunks{dir: dir, index: map[chunk.ID]place{}, packs: map[uint32]*pack{}, bad: map[chunk.ID]bool{}, fresh: map[chunk.ID]claim{},
		said: map[chunk.ID]time.Time{}, step: func(string) {}}
	for _, d := range []string{c.packDir(), c.manifestDir()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("open chunks: %w", err)
		}
		if err := removeTemporary(d); err != nil {
			return nil, fmt.Errorf("open chunks: %w", err)
		}
	}
	if err := errors.Join(c.load(), c.loadDamaged()); err != nil {
		return nil, errors.Join(fmt.Errorf("open chunks: %w", err), c.Close())
	}
	return c, nil
}

func (c *Chunks) packDir() string     { return filepath.Join(c.dir, "packs") }
func (c *Chunks) manifestDir() string { return filepath.Join(c.dir, "manifests") }

// load opens every pack that has an index and deletes every pack that has none.
func (c *Chunks) load() error {
	numbers, err := packNumbers(c.packDir())
	if err != nil {
		return err
	}
	for _, n := range numbers {
		c.next = max(c.next, n+1)
		p, entries, err := openPack(c.packDir(), n)
		if errors.Is(err, fs.ErrNotExist) {
			if err := removePack(c.packDir(), n); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		c.add(p, entries)
	}
	return nil
}

// add makes the chunks of a pack visible. The copy in the newest pack wins: it was stored because the older one was damaged, or moved.
func (c *Chunks) add(p *pack, entries []entry) {
	c.packs[p.number] = p
	for _, e := range entries {
		if old, ok := c.index[e.id]; !ok || old.pack < p.number || c.bad[e.id] {
			c.index[e.id] = place{pack: p.number, off: e.off, len: e.len}
			c.trust(e.id)
		}
	}
}

// Has reports whether the chunk is visible and not known to be damaged. The zero chunk always is.
func (c *Chunks) Has(id chunk.ID) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.has(id)
}

func (c *Chunks) has(id chunk.ID) bool {
	_, ok := c.index[id]
	return ok && !c.bad[id] || id.Implied()
}

// StoredBytes returns the length of the chunk's stored form in bytes; 0 if it is not here or is the zero chunk.
func (c *Chunks) StoredBytes(id chunk.ID) int64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return int64(c.index[id].len)
}

// Total returns the bytes that all packs occupy.
func (c *Chunks) Total() int64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var n int64
	for _, p := range c.packs {
		n += p.size
	}
	return n
}

// Stored returns the chunk in its stored form, as it goes over the wire. It is not checked: who unpacks it does that. The zero chunk has no stored
// form; asking for it, or for a chunk that is not here, is lab.ErrNotFound.
func (c *Chunks) Stored(id chunk.ID) ([]byte, error) { return c.readStored(id, nil) }

// StoredTo is Stored, into dst where its capacity suffices.
func (c *Chunks) StoredTo(id chunk.ID, dst []byte) ([]byte, error) { return c.readStored(id, dst) }

func (c *Chunks) readStored(id chunk.ID, dst []byte) ([]byte, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.readLocked(id, dst)
}

func (c *Chunks) readLocked(id chunk.ID, dst []byte) ([]byte, error) {
	at, ok := c.index[id]
	if !ok || c.closed {
		return nil, fmt.Errorf("chunk %v: %w", id, lab.ErrNotFound)
	}
	if cap(dst) < int(at.len) {
		dst = make([]byte, at.len)
	}
	dst = dst[:at.len]
	if _, err := c.packs[at.pack].f.ReadAt(dst, at.off); err != nil {
		return nil, fmt.Errorf("chunk %v: pack %d at byte %d: %w", id, at.pack, at.off, err)
	}
	return dst, nil
}

// storedBuffers holds buffers for stored forms that are only passed through.
var storedBuffers = sync.Pool{New: func() any { b := make([]byte, 0, chunk.MaxStored); return &b }}

// Get returns the chunk's bytes, which were hashed in the returned buffer. dst is overwritten and used if it has a capacity of chunk.Size.
// lab.ErrNotFound: the chunk is not here, or is the zero chunk. lab.ErrDamaged: it is not what its name promises.
func (c *Chunks) Get(id chunk.ID, dst []byte) ([]byte, error) {
	buf := storedBuffers.Get().(*[]byte)
	defer storedBuffers.Put(buf)
	c.mu.RLock()
	at := c.index[id]
	stored, err := c.readLocked(id, *buf)
	c.mu.RUnlock()
	if err != nil {
		return nil, err
	}
	b, err := chunk.UnpackAny(dst, stored, id)
	if err != nil {
		c.doubt(id, at)
		return nil, err
	}
	return b, nil
}

// Close closes the packs. What was not committed is gone at the next open.
func (c *Chunks) Close() error {
	_ = c.noteDamaged() // a full disk: the next read or fsck finds it again
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	var all error
	for n, p := range c.packs {
		all = errors.Join(all, p.f.Close())
		delete(c.packs, n)
	}
	return all
}
