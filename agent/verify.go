package agent

import (
	"bytes"
	"context"
	"fmt"
	"sync/atomic"

	"carte/lab"
	"carte/lab/chunk"
)

// sampling is that one chunk in so many is read back where not all are.
const sampling = 16

// verify reads back every chunk and table that was written or zeroed, from the medium, and proves it.
func (f *flash) verify(ctx context.Context, t todo) error {
	if err := f.reach(ctx, t.write+t.zero+t.laid, lab.Report{Rung: lab.RungVerify}); err != nil {
		return err
	}
	if f.check == lab.CheckNever {
		return nil
	}
	if err := f.disk.Forget(); err != nil {
		return fmt.Errorf("read back %s: %w", f.name, err)
	}
	for _, x := range f.tables {
		if !x.differs {
			continue
		}
		have := make([]byte, len(x.data))
		if err := f.readAt(have, x.off); err != nil {
			return err
		}
		if !bytes.Equal(have, x.data) {
			return f.broken(x.off)
		}
		f.gauge.done.Add(int64(len(have)))
	}
	for i := range f.parts {
		if err := f.verifyPart(ctx, &f.parts[i]); err != nil {
			return err
		}
	}
	return nil
}

func (f *flash) verifyPart(ctx context.Context, p *part) error {
	const step = reading / chunk.Size
	var next atomic.Int64
	worker := func(ctx context.Context) error {
		buf := aligned(reading)
		for ctx.Err() == nil {
			first := int(next.Add(step)) - step
			if first >= len(p.IDs) {
				return nil
			}
			for i, end := first, min(first+step, len(p.IDs)); i < end; i++ {
				n := 0 // chunks that follow one another and are to be read back
				for i+n < end && f.unproven(p, i+n) {
					n++
				}
				if n == 0 {
					continue
				}
				if err := f.verifyRun(p, i, i+n, buf); err != nil {
					return err
				}
				i += n
			}
		}
		return context.Cause(ctx)
	}
	return together(workers(), worker).Run(ctx)
}

// unproven says whether chunk i was written, and is to be read back.
func (f *flash) unproven(p *part, i int) bool {
	return p.state[i] != same && p.state[i] != proven && p.state[i] != later && (f.check != lab.CheckSampled || i%sampling == 0)
}

// verifyRun reads the chunks from first to before last back, at once, and hashes them.
func (f *flash) verifyRun(p *part, first, last int, buf []byte) error {
	off, _ := p.at(first)
	b := buf[:(last-1-first)*chunk.Size+p.Len(last-1)]
	if err := f.readAt(b, off); err != nil {
		return err
	}
	for i := first; i < last; i++ {
		off, n := p.at(i)
		if chunk.Sum(b[:n]) != p.IDs[i] {
			return f.broken(off)
		}
		f.gauge.done.Add(int64(n))
		b = b[n:]
	}
	return nil
}

func (f *flash) broken(off int64) error {
	return fmt.Errorf("%s at byte %d does not give back what was written there; it is failing, look at its SMART data: %w", f.name, off, lab.ErrDamaged)
}
