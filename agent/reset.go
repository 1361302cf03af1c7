package agent

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"

	"carte/lab"
	"carte/lab/chunk"
)

// reset tries to do without reading all of a disk on which the server has seen every layer proven: a tree's layers are never
// written by the system that runs from them, and dropping what was changed is no work. Orders say how much is looked at. It
// returns true when the disk is taken for equal to the plan, and false when all has to be compared, which it says why.
func (w *work) reset(ctx context.Context, f *flash) (done bool, err error) {
	how := w.orders.Reset
	if !w.resets() {
		return false, nil
	}
	if !w.orders.Tail.None() && !isTail(f.disk, w.orders.Tail, w.orders.Disk) {
		w.say("reset %s: carte's own end of %s is not there, so all is compared", how, f.name)
		return false, nil
	}
	if err := w.tables(ctx, f); err != nil {
		return false, err
	}
	s := f.sample(how, w.orders.Boot)
	f.gauge.enter(lab.RungProbe, s.bytes)
	at, err := s.read(ctx)
	if err != nil {
		return false, err
	}
	if at >= 0 {
		w.say("reset %s: %s has something else at byte %d, so all is compared", how, f.name, at)
		return false, nil
	}
	fc := lab.Forecast{Strategy: lab.Differential, Why: fmt.Sprintf("reset %s: every layer was proven here before; %s", how, s.words())}
	w.say("%s, and is as it was; nothing is written", fc.Why)
	w.gauge.enter(lab.RungVerify, 0)
	w.chosen = fc
	return true, nil
}

// resets says that orders do not want all of the disk to be read. Such a boot spares reports of what is over before anybody could look.
func (w *work) resets() bool {
	return w.orders.Form == lab.FormTree && (w.orders.Reset == lab.ResetSampled || w.orders.Reset == lab.ResetTrust)
}

// A sample is a part of what a disk is made of.
type sample struct {
	*flash
	chunks    []place
	bytes, of int64
}

// drawnMost is how many chunks a sample draws at the most, 16 MiB: more than that says little more, and a spinning disk reads it in
// less than a second.
const drawnMost = 64

// sample chooses chunks of every layer: the first, where its file system says what it is, and of each sixteen, or of a larger disk
// more, another one when they are to be sampled, by a lot that another boot draws otherwise.
func (f *flash) sample(how lab.Reset, boot int64) sample {
	s, chunks := sample{flash: f}, 0
	for _, p := range f.parts {
		chunks += len(p.IDs)
	}
	step := max(sampling, (chunks+drawnMost-1)/drawnMost)
	for k := range f.parts {
		p := &f.parts[k]
		s.of += p.Size
		lot := rand.New(rand.NewPCG(uint64(boot), uint64(k)))
		for i := 0; i < len(p.IDs); i += step {
			drawn := i + lot.IntN(min(step, len(p.IDs)-i))
			if i == 0 && p.state[0] == unknown {
				s.add(p, 0)
			}
			if how == lab.ResetSampled && drawn > 0 && p.state[drawn] == unknown {
				s.add(p, drawn)
			}
		}
	}
	return s
}

func (s *sample) add(p *part, i int) {
	s.chunks = append(s.chunks, place{p, i})
	s.bytes += int64(p.Len(i))
}

func (s *sample) words() string {
	return fmt.Sprintf("%d chunks, %s of %s, were looked at", len(s.chunks), lab.Bytes(s.bytes), lab.Bytes(s.of))
}

// read reads the sample and the partition tables. It returns the place of something that differs, or -1.
func (s *sample) read(ctx context.Context) (at int64, err error) {
	for _, x := range s.tables {
		have := make([]byte, len(x.data))
		if err := s.readAt(have, x.off); err != nil {
			return 0, err
		}
		if !bytes.Equal(have, x.data) {
			return x.off, nil
		}
	}
	var next, differs atomic.Int64
	differs.Store(-1)
	err = together(workers(), func(ctx context.Context) error {
		buf := aligned(chunk.Size)
		for k := int(next.Add(1)) - 1; k < len(s.chunks) && differs.Load() < 0; k = int(next.Add(1)) - 1 {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			c := s.chunks[k]
			if err := s.compareRun(c.p, c.i, c.i+1, buf); err != nil {
				return err
			}
			if c.p.state[c.i] != same {
				off, _ := c.p.at(c.i)
				differs.Store(off)
			}
		}
		return nil
	}).Run(ctx)
	return differs.Load(), err
}
