package agent

import (
	"bytes"
	"context"
	"sync/atomic"

	"carte/lab"
	"carte/lab/chunk"
)

// reading is how much is read at once: long enough for a spinning disk, a whole number of chunks.
const reading = 1 << 20

// compare reads and hashes where the plan belongs and notes what differs. It writes nothing.
func (f *flash) compare(ctx context.Context) (t todo, err error) {
	total := int64(0)
	for _, p := range f.parts {
		total += p.Size
	}
	if err := f.reach(ctx, total, lab.Report{Rung: lab.RungHash}); err != nil {
		return t, err
	}
	for i := range f.tables {
		x := &f.tables[i]
		have := make([]byte, len(x.data))
		if err := f.readAt(have, x.off); err != nil {
			return t, err
		}
		if x.differs = !bytes.Equal(have, x.data); x.differs {
			t.write += int64(len(x.data))
		}
	}
	over := 0
	for i := range f.parts {
		p := &f.parts[i]
		if err := f.comparePart(ctx, p); err != nil {
			return t, err
		}
		for c, s := range p.state {
			t.of++
			switch {
			case s == same:
				continue
			case p.IDs[c].IsZero():
				t.zero += int64(p.Len(c))
			default:
				t.write, t.fetch = t.write+int64(p.Len(c)), true
			}
			t.chunks++
			if s == other {
				over++
			}
		}
	}
	f.scrub = over > t.of/2
	return t, nil
}

// comparePart spreads one image over the cores. Every worker reads, and hashes what it read.
func (f *flash) comparePart(ctx context.Context, p *part) error {
	const step = reading / chunk.Size
	var next atomic.Int64
	worker := func(ctx context.Context) error {
		buf := aligned(reading)
		for ctx.Err() == nil {
			first := int(next.Add(step)) - step
			if first >= len(p.IDs) {
				return nil
			}
			last := min(first+step, len(p.IDs))
			off, _ := p.at(first)
			b := buf[:min(reading, p.Offset+p.Size-off)]
			if err := f.readAt(b, off); err != nil {
				return err
			}
			for c := first; c < last; c++ {
				n := p.Len(c)
				p.state[c] = compareChunk(b[:n], p.IDs[c])
				b = b[n:]
				f.gauge.done.Add(int64(n))
			}
		}
		return context.Cause(ctx)
	}
	return together(workers(), worker).Run(ctx)
}

// compareChunk says how what is on the disk relates to what should be. Only what can be equal is hashed.
func compareChunk(have []byte, want chunk.ID) state {
	zero := chunk.IsZero(have)
	switch {
	case zero && want.IsZero():
		return same
	case zero:
		return blank
	case want.IsZero() || chunk.Sum(have) != want:
		return other
	}
	return same
}

// together is a group of n times the same.
func together(n int, f func(context.Context) error) group {
	g := make(group, n)
	for i := range g {
		g[i] = f
	}
	return g
}
