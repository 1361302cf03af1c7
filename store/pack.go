package store

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"carte/lab/chunk"
)

// A pack is a file N.pack: a magic of 16 bytes, then frames (chunk.WriteFrame). Its index is the file N.index: a magic of 16 bytes, then for each
// chunk its ID, the offset of its stored form (8 bytes) and its length (4 bytes), little endian; at the end the BLAKE3-256 of all that. An index
// appears under its name whole or not at all.
const (
	packMagic  = "carte.pack....1\n"
	indexMagic = "carte.index...1\n"
	entrySize  = 32 + 8 + 4
)

type pack struct {
	number uint32
	f      *os.File
	size   int64     // bytes of the file
	born   time.Time // when this process committed it without a manifest; zero: before, or with one
}

type entry struct {
	id  chunk.ID
	off int64
	len uint32
}

func packPath(dir string, n uint32) string  { return filepath.Join(dir, fmt.Sprintf("%06d.pack", n)) }
func indexPath(dir string, n uint32) string { return filepath.Join(dir, fmt.Sprintf("%06d.index", n)) }

// packNumbers lists the numbers of all packs and indexes in dir, rising.
func packNumbers(dir string) ([]uint32, error) {
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var numbers []uint32
	for _, e := range list {
		name, ext, _ := strings.Cut(e.Name(), ".")
		n, err := strconv.ParseUint(name, 10, 32)
		if err == nil && (ext == "pack" || ext == "index") {
			numbers = append(numbers, uint32(n))
		}
	}
	slices.Sort(numbers)
	return slices.Compact(numbers), nil
}

// openPack opens pack n and reads its index. fs.ErrNotExist: one of the two files is missing, so that nothing of it is visible. An index that does
// not check is made again from the pack; entries beyond the end of the pack are dropped.
func openPack(dir string, n uint32) (_ *pack, _ []entry, err error) {
	index, err := os.ReadFile(indexPath(dir, n))
	if err != nil {
		return nil, nil, err
	}
	f, err := os.Open(packPath(dir, n))
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	st, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	p := &pack{number: n, f: f, size: st.Size()}
	entries, ok := decodeIndex(index)
	if !ok {
		if entries, err = p.walk(); err != nil {
			return nil, nil, err
		}
		if err = writeDurably(indexPath(dir, n), encodeIndex(entries)); err != nil {
			return nil, nil, err
		}
	}
	entries = slices.DeleteFunc(entries, func(e entry) bool { return e.off+int64(e.len) > p.size })
	return p, entries, nil
}

// walk reads the frames of a pack and stops where they end or make no sense.
func (p *pack) walk() ([]entry, error) {
	r := bufio.NewReaderSize(io.NewSectionReader(p.f, 0, p.size), 1<<20)
	if _, err := r.Discard(len(packMagic)); err != nil {
		return nil, nil // cut off before the first chunk
	}
	var entries []entry
	buf := make([]byte, 0, chunk.MaxStored)
	for off := int64(len(packMagic)); ; {
		id, stored, err := chunk.ReadFrame(r, buf)
		if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, chunk.ErrDamaged) {
			return entries, nil
		}
		if err != nil {
			return nil, fmt.Errorf("pack %d: %w", p.number, err)
		}
		off += int64(chunk.FrameHeader)
		if !id.Implied() {
			entries = append(entries, entry{id: id, off: off, len: uint32(len(stored))})
		}
		off += int64(len(stored))
	}
}

func encodeIndex(entries []entry) []byte {
	b := make([]byte, 0, len(indexMagic)+len(entries)*entrySize+32)
	b = append(b, indexMagic...)
	for _, e := range entries {
		b = append(b, e.id[:]...)
		b = binary.LittleEndian.AppendUint64(b, uint64(e.off))
		b = binary.LittleEndian.AppendUint32(b, e.len)
	}
	sum := chunk.Sum(b)
	return append(b, sum[:]...)
}

func decodeIndex(b []byte) ([]entry, bool) {
	n := len(b) - len(indexMagic) - 32
	if n < 0 || n%entrySize != 0 || string(b[:len(indexMagic)]) != indexMagic || chunk.Sum(b[:len(b)-32]) != chunk.ID(b[len(b)-32:]) {
		return nil, false
	}
	entries := make([]entry, n/entrySize)
	for i := range entries {
		r := b[len(indexMagic)+i*entrySize:]
		e := entry{id: chunk.ID(r), off: int64(binary.LittleEndian.Uint64(r[32:])), len: binary.LittleEndian.Uint32(r[40:])}
		if e.off < 0 || e.len > chunk.MaxStored || e.id.Implied() {
			return nil, false
		}
		entries[i] = e
	}
	return entries, true
}

// removePack deletes the index first, so that a crash in between leaves a pack that the next open deletes.
func removePack(dir string, n uint32) error {
	for _, path := range []string{indexPath(dir, n), packPath(dir, n)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := syncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

const temporary = ".tmp"

// writeDurably makes the file appear under its name with all of b, or not at all: write beside, sync, close, rename, sync the folder.
func writeDurably(path string, b []byte) (err error) {
	f, err := os.OpenFile(path+temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(path+temporary, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(path+temporary))
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// removeTemporary deletes what writeDurably had not finished.
func removeTemporary(dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, "*"+temporary))
	for _, name := range names {
		err = errors.Join(err, os.Remove(name))
	}
	return err
}
