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
	var next atomic.Int64
	worker := func(ctx context.Context) error {
		buf := aligned(chunk.Size)
		for ctx.Err() == nil {
			i := int(next.Add(1)) - 1
			if i >= len(p.IDs) {
				return nil
			}
			if p.state[i] == same || p.state[i] == proven || f.check == lab.CheckSampled && i%sampling != 0 {
				continue
			}
			off, n := p.at(i)
			if err := f.readAt(buf[:n], off); err != nil {
				return err
			}
			if chunk.Sum(buf[:n]) != p.IDs[i] {
				return f.broken(off)
			}
			f.gauge.done.Add(int64(n))
		}
		return context.Cause(ctx)
	}
	return together(workers(), worker).Run(ctx)
}

func (f *flash) broken(off int64) error {
	return fmt.Errorf("%s at byte %d does not give back what was written there; it is failing, look at its SMART data: %w", f.name, off, lab.ErrDamaged)
}
