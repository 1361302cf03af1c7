package layout

import (
	"cmp"
	"context"
	"fmt"
	"io"
)

// A Map says which bytes of a disk matter.
//
// Free bytes are of no use to anybody: they need neither be stored nor written. Stale bytes need not be stored either, but
// where the disk is laid again they must be written as zeros rather than left as they were. There is one kind of them, the
// log of a journal that is empty: ext4 reads none of it as long as it is empty, but once it holds something the kernel
// replays from there on whatever has the next sequence number. On a disk that ran the same image before, that is what the
// earlier run had logged at this place, complete with the right UUID and check sums. mkfs leaves zeros there for that reason.
//
// Everything else is needed: gaps between partitions (boot loaders live there), tables, file systems that are not known.
type Map struct {
	Table   Table
	Free    []Extent // sorted, disjoint, merged
	Stale   []Extent // the same, and disjoint from Free
	Systems []System // what the partitions hold, in the order of the table, or what the whole disk holds
}

// Cover reports whether all of the n bytes at off are free.
func (m Map) Cover(off, n int64) (free bool) {
	if n <= 0 {
		return true
	}
	rest := from(m.Free, off)
	return len(rest) > 0 && rest[0].Off <= off && rest[0].Off+rest[0].Bytes >= off+n
}

// Blank zeroes the free and the stale bytes of b, which lies at off, and reports whether that changed b.
func (m Map) Blank(b []byte, off int64) (changed bool) {
	changed = blank(m.Free, b, off)
	return blank(m.Stale, b, off) || changed
}

// Read makes the map of a disk of size bytes, with a partition table or one file system from its first byte on. It reads
// tables, bitmaps and the like: less than half a MiB for each 10 GiB of ext4. Whatever is on the disk, it ends, and takes at most some
// ten MiB of memory. An error is one of r, or the context's; what cannot be understood is kept and says so.
func Read(ctx context.Context, r io.ReaderAt, size int64) (Map, error) {
	s := &source{r: r, size: size}
	m := Map{Table: s.table()}
	whole := s.identify(0, size)
	if m.Table.Kind == "" {
		m.add(s.system(ctx, 0, size, whole))
	} else {
		odd := ""
		switch {
		case len(whole) > 0:
			odd = fmt.Sprintf("the disk has a partition table and is %s as well", whole[0].Type)
		case m.Table.Note != "":
			odd = m.Table.Note
		}
		for _, p := range m.Table.Parts {
			if p.Type == TypeExtended || p.Type == TypeTail { // a box around others; what a disk's tail holds is its keeper's
				continue
			}
			all := s.identify(p.Off, min(p.Bytes, size-p.Off))
			if why := cmp.Or(odd, s.misplaced(m.Table, p)); why != "" {
				x := first(all, p.Off, p.Bytes)
				x.Kept = why
				m.add(found{System: x})
				continue
			}
			m.add(s.system(ctx, p.Off, p.Bytes, all))
		}
	}
	m.Free, m.Stale = merged(m.Free), merged(m.Stale)
	m.Free = without(m.Free, m.Stale)
	if err := context.Cause(ctx); err != nil {
		return Map{}, err
	}
	if s.err != nil {
		return Map{}, fmt.Errorf("look for free space: %w", s.err)
	}
	return m, nil
}

// misplaced says why a partition cannot be where its table says.
func (s *source) misplaced(t Table, p Partition) string {
	if p.Off <= 0 || p.Bytes <= 0 || p.Off > s.size-p.Bytes {
		return "the partition reaches beyond the end of the disk"
	}
	if t.Kind == "gpt" && (p.Off < t.First || p.Off+p.Bytes > t.Last) {
		return "the partition lies outside what the table says is usable"
	}
	for _, q := range t.Parts {
		if q.Number != p.Number && q.Type != TypeExtended && p.Off < q.Off+q.Bytes && q.Off < p.Off+p.Bytes {
			return fmt.Sprintf("the partition overlaps partition %d", q.Number)
		}
	}
	return ""
}

// found is what is known of one file system.
type found struct {
	System
	free, stale []Extent
}

func (m *Map) add(f found) {
	if f.Kept != "" {
		f.Used, f.free, f.stale = f.Bytes, nil, nil
	}
	m.Systems = append(m.Systems, f.System)
	m.Free, m.Stale = append(m.Free, f.free...), append(m.Stale, f.stale...)
}

// first is what identify found first, over the bytes of a partition where it does not say how far it reaches.
func first(all []System, off, size int64) System {
	x := System{Off: off}
	if len(all) > 0 {
		x = all[0]
	}
	if x.Bytes == 0 {
		x.Bytes = size
	}
	return x
}

// system looks into what lies in the size bytes at off.
func (s *source) system(ctx context.Context, off, size int64, all []System) found {
	f := found{System: first(all, off, size)}
	part := &section{source: s, off: off, size: size}
	switch {
	case len(all) > 1:
		f.Kept = fmt.Sprintf("it could be %s or %s", all[0].Type, all[1].Type)
	case len(all) == 0:
		f.Kept = "what is there is not known"
	case f.Type == "ext2" || f.Type == "ext3" || f.Type == "ext4":
		part.ext(ctx, &f)
	case f.Type == "vfat":
		part.fat(ctx, &f)
	case f.Type == "swap":
		part.swap(&f)
	case f.Type == "hibernation":
		f.Kept = "a system sleeps in it"
	default:
		f.Kept = "its free space cannot be read"
	}
	if f.Kept == "" {
		f.Used = f.Bytes - sum(f.free)
	}
	return f
}

// section is a partition.
type section struct {
	*source
	off, size int64
}

// read returns n bytes at a place of the partition; nil when it does not have them.
func (s *section) read(at int64, n int) []byte {
	if at < 0 || n < 0 || at > s.size-int64(n) {
		return nil
	}
	return s.whole(s.off+at, n)
}
