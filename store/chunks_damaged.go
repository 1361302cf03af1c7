package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"carte/lab/chunk"
)

// Which chunks were found damaged is noted in the file packs/damaged, so that the next process counts them as absent, too, and whoever brings the same
// bytes again mends them: a magic of 16 bytes, then for each chunk its ID, the number of its pack (4 bytes) and the offset of its stored form there (8
// bytes), little endian; at the end the BLAKE3-256 of all that. A note is of one copy of a chunk and is void once another copy counts. So nothing needs
// it to be exact: a kill may lose notes, which the next read or fsck finds again, and one that is left over says nothing.
const (
	damagedMagic = "carte.damaged.1\n"
	damagedSize  = 32 + 4 + 8
)

// noteEvery is how often at most what reads find is noted while they go on.
const noteEvery = time.Second

func (c *Chunks) damagedPath() string { return filepath.Join(c.packDir(), "damaged") }

// doubt says that the copy of a chunk at a place is damaged. It does not matter where another copy counts by now.
func (c *Chunks) doubt(id chunk.ID, at place) {
	c.mu.Lock()
	c.doubtLocked(id, at)
	due := c.unnoted && !c.closed && time.Since(c.noted) > noteEvery
	if due {
		c.noted = time.Now()
	}
	c.mu.Unlock()
	if due {
		_ = c.noteDamaged() // who reads has the damage to tell; Close tries again
	}
}

// doubtLocked is doubt for who holds c.mu.
func (c *Chunks) doubtLocked(id chunk.ID, at place) {
	if have, ok := c.index[id]; ok && have == at && !c.bad[id] {
		c.bad[id], c.unnoted = true, true
	}
}

// trust takes a chunk from what counts as damaged. c.mu is held.
func (c *Chunks) trust(id chunk.ID) {
	if c.bad[id] {
		delete(c.bad, id)
		c.unnoted = true
	}
}

// noteDamaged brings to the disk which chunks are damaged, if that has changed.
func (c *Chunks) noteDamaged() error {
	c.noting.Lock()
	defer c.noting.Unlock()
	c.mu.Lock()
	due, n := c.unnoted, len(c.bad)
	var b []byte
	if c.unnoted = false; due && n > 0 {
		b = c.encodeDamaged()
	}
	c.mu.Unlock()
	var err error
	switch {
	case !due:
		return nil
	case n > 0:
		err = writeDurably(c.damagedPath(), b)
	default:
		if err = os.Remove(c.damagedPath()); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	if err == nil {
		return nil
	}
	c.mu.Lock()
	c.unnoted = true
	c.mu.Unlock()
	return fmt.Errorf("note which chunks are damaged: %w", full(err))
}

// encodeDamaged is the file's content. c.mu is held.
func (c *Chunks) encodeDamaged() []byte {
	b := append(make([]byte, 0, len(damagedMagic)+len(c.bad)*damagedSize+32), damagedMagic...)
	for id := range c.bad {
		at, ok := c.index[id]
		if !ok {
			continue
		}
		b = append(b, id[:]...)
		b = binary.LittleEndian.AppendUint32(b, at.pack)
		b = binary.LittleEndian.AppendUint64(b, uint64(at.off))
	}
	sum := chunk.Sum(b)
	return append(b, sum[:]...)
}

// loadDamaged reads what was noted, when the index is there. Notes that are void, or a file that does not check, are cleared away.
func (c *Chunks) loadDamaged() error {
	b, err := os.ReadFile(c.damagedPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	n := len(b) - len(damagedMagic) - 32
	if n < 0 || n%damagedSize != 0 || string(b[:len(damagedMagic)]) != damagedMagic || chunk.Sum(b[:len(b)-32]) != chunk.ID(b[len(b)-32:]) {
		c.unnoted, n = true, 0
	}
	for i := range n / damagedSize {
		b := b[len(damagedMagic)+i*damagedSize:]
		id := chunk.ID(b)
		at, ok := c.index[id]
		if ok && at.pack == binary.LittleEndian.Uint32(b[32:]) && uint64(at.off) == binary.LittleEndian.Uint64(b[36:]) {
			c.bad[id] = true
		} else {
			c.unnoted = true
		}
	}
	_ = c.noteDamaged() // a full disk must not keep a lab shut; what is void stays void
	return nil
}
