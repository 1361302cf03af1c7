package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"carte/lab"
	"carte/lab/chunk"
	"carte/lab/layout"
)

// tornMost is how many chunks an unfinished flash that nobody had confirmed may have left between old and new.
const tornMost = 64

// A vouch decides what may be written over without a question: what is blank, and what a version that is known has at that
// very place, with the partition table that carte fitted to the disk. Of anything else nobody knows who needs it. It may be
// asked from any number of goroutines.
type vouch struct {
	*target
	to       string // what the person called it
	root     chunk.ID
	mu       sync.Mutex
	versions []chunk.Manifest // the one that is to be laid, then those that were needed so far
	more     []lab.Version    // whose manifests nobody has needed, the likeliest last
	ids      int              // in versions
	load     func(lab.Version) (chunk.Manifest, error)
	fitted   []table // tables for this disk that carte made of those versions, and that are there
	mayTear  int64   // so many chunks may be neither
	torn     atomic.Int64
}

// over vouches for have, which is what is at chunk i of the disk.
func (v *vouch) over(i int, have []byte) error {
	off := int64(i) * chunk.Size
	ok, err := v.known(i, have)
	if err == nil && !ok {
		if plain := v.masked(off, have); plain != nil {
			if ok = chunk.IsZero(plain); !ok {
				ok, err = v.known(i, plain)
			}
		}
	}
	if err != nil || ok || v.torn.Add(1) <= v.mayTear {
		return err
	}
	return v.refuse(fmt.Sprintf("holds something at byte %d that no version known here has there", off))
}

func (v *vouch) refuse(why string) error {
	if what := contents(v, v.size); what != "" {
		why += " (" + what + ")"
	}
	return fmt.Errorf("%s %s; to overwrite it, repeat its path: --confirm %s: %w", v.to, why, v.to, lab.ErrConfirm)
}

// known says whether a version has have, or bytes that it begins, as its chunk i.
func (v *vouch) known(i int, have []byte) (bool, error) {
	id := chunk.Sum(have)
	for k := 0; ; k++ {
		m, ok, err := v.version(k)
		if !ok || err != nil {
			return false, err
		}
		if i >= len(m.IDs) {
			continue
		}
		switch n := m.Len(i); {
		case n == len(have) && m.IDs[i] == id:
			return true, nil
		case n < len(have) && m.IDs[i] == chunk.Sum(have[:n]) && chunk.IsZero(have[n:]):
			return true, nil
		case n > len(have) && int64(i)*chunk.Size+int64(n) <= v.size: // the new version ends earlier
			more := aligned(n)
			if _, err := v.ReadAt(more, int64(i)*chunk.Size); err != nil {
				return false, fmt.Errorf("read %s at byte %d: %w", v.path, int64(i)*chunk.Size, err)
			}
			if bytes.Equal(more[:len(have)], have) && m.IDs[i] == chunk.Sum(more) {
				return true, nil
			}
		}
	}
}

// version is the k-th known one's manifest, which is loaded only when it is needed; ok is false when there are no more.
func (v *vouch) version(k int) (m chunk.Manifest, ok bool, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for k >= len(v.versions) && len(v.more) > 0 {
		x := v.more[len(v.more)-1]
		v.more = v.more[:len(v.more)-1]
		if x.Root == v.root || v.ids+chunk.Count(x.Bytes) > idsMost {
			continue
		}
		m, err := v.load(x)
		switch {
		case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
			return m, false, err
		case err == nil: // one that is damaged vouches for nothing
			v.versions, v.ids = append(v.versions, m), v.ids+len(m.IDs)
		}
	}
	if k >= len(v.versions) {
		return m, false, nil
	}
	return v.versions[k], true, nil
}

// masked is have, from byte off, with zeros where a fitted table lies; nil where none does.
func (v *vouch) masked(off int64, have []byte) (plain []byte) {
	for _, t := range v.fitted {
		from, to := max(off, t.off), min(off+int64(len(have)), t.off+int64(len(t.data)))
		if from >= to {
			continue
		}
		if plain == nil {
			plain = bytes.Clone(have)
		}
		clear(plain[from-off : to-off])
	}
	return plain
}

// vouched looks at what lies where the tables go, and at some of what lies behind the image; the image's own place is looked
// at when it is compared. It expects the tables that amend made.
func (f *flash) vouched(ctx context.Context) error {
	v, p := f.vouch, &f.parts[0]
	if err := f.findFitted(ctx); err != nil {
		return err
	}
	for _, x := range f.tables {
		if err := f.vouchedTable(x); err != nil {
			return err
		}
	}
	buf := aligned(chunk.Size)
	for _, off := range v.places(p.Size&^(chunk.Size-1)+chunk.Size, v.size) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		b := buf[:min(chunk.Size, v.size-off)]
		if err := f.readAt(b, off); err != nil {
			return err
		}
		plain := v.masked(off, b)
		if chunk.IsZero(b) || plain != nil && chunk.IsZero(plain) {
			continue
		}
		if ok, err := v.known(int(off/chunk.Size), b); err != nil || ok {
			if err != nil {
				return err
			}
			continue
		}
		return v.refuse(fmt.Sprintf("is larger than the image, and holds something behind it (at byte %d), which stays", off))
	}
	return nil
}

// vouchedTable looks at the chunks where a table goes, unless it is there.
func (f *flash) vouchedTable(x table) error {
	v := f.vouch
	have := make([]byte, len(x.data))
	if err := f.readAt(have, x.off); err != nil || chunk.IsZero(have) || bytes.Equal(have, x.data) {
		return err
	}
	buf := aligned(chunk.Size)
	for off := x.off &^ (chunk.Size - 1); off < x.off+int64(len(x.data)); off += chunk.Size {
		b := buf[:min(chunk.Size, v.size-off)]
		if err := f.readAt(b, off); err != nil {
			return err
		}
		if chunk.IsZero(b) {
			continue
		}
		if err := v.over(int(off/chunk.Size), b); err != nil {
			return err
		}
	}
	return nil
}

// findFitted notes which tables on the disk are a known version's, fitted to the disk.
func (f *flash) findFitted(ctx context.Context) error {
	v := f.vouch
	if v.size < 2*int64(f.disk.Block()) {
		return nil
	}
	if start, _ := v.Data(0); start >= min(chunk.Size, v.size) {
		return nil
	}
	have := aligned(int(min(chunk.Size, v.size)))
	if err := f.readAt(have, 0); err != nil {
		return err
	}
	if own := v.versions[0]; chunk.IsZero(have) || chunk.Sum(have[:min(len(have), own.Len(0))]) == own.IDs[0] || !gptAt(have, f.disk.Block()) {
		return nil
	}
	for k := 0; len(v.fitted) == 0; k++ {
		m, ok, err := v.version(k)
		if !ok || err != nil {
			return err
		}
		if m.Size >= v.size || m.IDs[0].Implied() {
			continue
		}
		have := have[:m.Len(0)]
		head, _, _, ok, err := layout.Restore(have, f.disk.Block(), m.Size)
		switch {
		case err == nil && chunk.Sum(head) == m.IDs[0]:
		case k == 0 && ok && err == nil: // it may have grown
			if head, _, err = f.head(ctx, &f.parts[0]); err != nil {
				return err
			}
		default:
			continue
		}
		fit, at, backup, ok, err := layout.Amend(head, f.disk.Block(), v.size, 0)
		if err == nil && ok {
			if err := f.noteFitted(have, fit, at, backup); err != nil {
				return err
			}
		}
		if fit, at, backup, _, err := layout.GrowLast(head, f.disk.Block(), v.size, 0); err == nil {
			if err := f.noteFitted(have, fit, at, backup); err != nil {
				return err
			}
		}
	}
	return nil
}

// gptAt says whether a disk begins with a GPT.
func gptAt(head []byte, block int) bool {
	const magic = "EFI PART"
	return len(head) >= block+len(magic) && string(head[block:block+len(magic)]) == magic
}

// noteFitted takes what of a table is on the disk.
func (f *flash) noteFitted(have, fit []byte, at int64, backup []byte) error {
	if !bytes.Equal(have, fit) {
		return nil
	}
	v := f.vouch
	v.fitted = append(v.fitted, table{off: 0, data: fit})
	there := make([]byte, len(backup))
	if err := f.readAt(there, at); err != nil {
		return err
	}
	if bytes.Equal(there, backup) {
		v.fitted = append(v.fitted, table{off: at, data: backup})
	}
	return nil
}

// idsMost is how many names of chunks are kept in memory to vouch for a target: 256 MiB of them.
const idsMost = 8 << 20

// A faulty source remembers the error with which it ended, to be told from the target's.
type faulty struct {
	Source
	err atomic.Pointer[error]
}

func (s *faulty) Chunks(ctx context.Context, ids []chunk.ID, each func(chunk.ID, []byte) error) (int, error) {
	var theirs error
	got, err := s.Source.Chunks(ctx, ids, func(id chunk.ID, stored []byte) error {
		theirs = each(id, stored)
		return theirs
	})
	if err != nil && ctx.Err() == nil && (theirs == nil || errors.Is(theirs, lab.ErrDamaged)) {
		s.err.Store(&err)
	}
	return got, err
}

// caused says whether err is the source's.
func (s *faulty) caused(err error) bool {
	e := s.err.Load()
	return e != nil && errors.Is(err, *e)
}
