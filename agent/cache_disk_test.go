package agent

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// ramDisk is a disk in memory that knows what a power cut would leave of it, and where it was written.
type ramDisk struct {
	mu       sync.Mutex
	b        []byte
	unsynced map[int64][]byte // sectors as they were at the last sync
	broken   error            // of every write
	writes   []int            // lengths
	low      int64            // what was written lies in low..high
	high     int64
}

const sector = 512

func newRAMDisk(b []byte) *ramDisk {
	return &ramDisk{b: b, unsynced: map[int64][]byte{}, low: int64(len(b))}
}

func (d *ramDisk) ReadAt(b []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := copy(b, d.b[off:]); n < len(b) {
		return n, errors.New("behind the end")
	}
	return len(b), nil
}

func (d *ramDisk) WriteAt(b []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.broken != nil {
		return 0, d.broken
	}
	for s := off &^ (sector - 1); s < off+int64(len(b)); s += sector {
		if _, ok := d.unsynced[s]; !ok {
			d.unsynced[s] = bytes.Clone(d.b[s : s+sector])
		}
	}
	d.low, d.high = min(d.low, off), max(d.high, off+int64(len(b)))
	d.writes = append(d.writes, len(b))
	return copy(d.b[off:], b), nil
}

func (d *ramDisk) Zero(off, n int64) error {
	_, err := d.WriteAt(make([]byte, n), off)
	return err
}

func (d *ramDisk) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.unsynced)
	return d.broken
}

func (d *ramDisk) Size() int64   { return int64(len(d.b)) }
func (d *ramDisk) Block() int    { return sector }
func (d *ramDisk) Forget() error { return nil }
func (d *ramDisk) Close() error  { return nil }

// cut returns the disk as a power cut may leave it: each sector that was not synced is there or is not.
func (d *ramDisk) cut(r *rand.Rand) *ramDisk {
	b := bytes.Clone(d.b)
	lost := r.IntN(4) // of three; 3: all
	for at, was := range d.unsynced {
		if r.IntN(3) < lost {
			copy(b[at:], was)
		}
	}
	return newRAMDisk(b)
}

// sparseDisk is a file with a hole of that many bytes.
func sparseDisk(t testing.TB, n int64) (Disk, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, n); err != nil {
		t.Fatal(err)
	}
	d, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d, path
}
