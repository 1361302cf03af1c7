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
		f.chart(p)
		if f.blind {
			p.overlook()
		} else if err := f.comparePart(ctx, p); err != nil {
			return t, err
		}
		for c, s := range p.state {
			t.of++
			switch {
			case s == laid:
				t.laid += int64(p.Len(c))
				continue
			case s == proven:
				t.proven += int64(p.Len(c))
				continue
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
	f.scrub = f.blind || over > t.of/2
	return t, nil
}

// settled says that nothing is left to do.
func (s state) settled() bool { return s == same || s == laid || s == proven }

// charted is a disk that knows where it holds nothing.
type charted interface {
	// Data returns the next range, at or after from, that may hold something; from and end are the disk's size when none does.
	Data(from int64) (start, end int64)
}

// chart settles, without reading, what is known of the places where the disk holds nothing.
func (f *flash) chart(p *part) {
	d, ok := f.disk.(charted)
	if !ok {
		return
	}
	data := int64(0) // where the last range ended
	for i := 0; i < len(p.IDs); {
		off, _ := p.at(i)
		start, end := off, data
		if off >= data {
			start, end = d.Data(off)
			data = end
		}
		for ; i < len(p.IDs); i++ { // before start is nothing
			off, n := p.at(i)
			if off+int64(n) > start {
				break
			}
			if p.state[i] == unknown {
				p.state[i] = blankFor(p.IDs[i])
			}
		}
		for ; i < len(p.IDs); i++ { // up to end is something
			if off, _ := p.at(i); off >= end {
				break
			}
		}
	}
}

// blankFor is the state of a place that is blank.
func blankFor(want chunk.ID) state {
	if want.IsZero() {
		return same
	}
	return blank
}

// overlook takes everything that is unknown for something else.
func (p *part) overlook() {
	for i, s := range p.state {
		if s == unknown {
			p.state[i] = other
		}
	}
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
			if err := f.compareRun(p, first, min(first+step, len(p.IDs)), buf); err != nil {
				return err
			}
		}
		return context.Cause(ctx)
	}
	return together(workers(), worker).Run(ctx)
}

// compareRun reads what is unknown of the chunks from first to before last, at once, and settles it.
func (f *flash) compareRun(p *part, first, last int, buf []byte) error {
	start, end := last, first
	for c := first; c < last; c++ {
		if p.state[c] == unknown {
			start, end = min(start, c), c+1
		} else {
			f.gauge.done.Add(int64(p.Len(c)))
		}
	}
	if start >= end {
		return nil
	}
	off, _ := p.at(start)
	_, n := p.at(end - 1)
	b := buf[:(end-start-1)*chunk.Size+n]
	if err := f.readAt(b, off); err != nil {
		return err
	}
	for c := start; c < end; c++ {
		n := p.Len(c)
		if p.state[c] == unknown {
			p.state[c] = compareChunk(b[:n], p.IDs[c])
			if p.state[c] == other && f.vouch != nil {
				if err := f.vouch.over(c, b[:n]); err != nil {
					return err
				}
			}
			f.gauge.done.Add(int64(n))
		}
		b = b[n:]
	}
	return nil
}

// compareChunk says how what is on the disk relates to what should be. Only what can be equal is hashed.
func compareChunk(have []byte, want chunk.ID) state {
	zero := chunk.IsZero(have)
	switch {
	case zero:
		return blankFor(want)
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
