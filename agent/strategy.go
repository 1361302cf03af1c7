package agent

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"carte/lab"
	"carte/lab/chunk"
)

// The probe looks at so many runs of so many chunks, spread over the target, and lays so many chunks.
const (
	probeRuns   = 8
	probeRun    = 4
	probeWrites = 256 // at most, and a part of what there is
)

// probeFrom is the size, in bytes, below which nothing is laid to learn how fast that goes: it would be most of the work.
const probeFrom = 512 * chunk.Size

// gain is by how much a full flash must be faster to be chosen: a differential one writes less.
const gain = 0.9

// A probe measures a flash. Times are of all workers together.
type probe struct {
	*flash
	p              *part
	unknown, blank int64 // bytes that must be read to be known; bytes that are to be written for certain
	used           int64 // of unknown, those where the image is not zero
	looked         int64 // bytes of used places that were read
	equal, void    int64 // of looked, those that are what they should be, and those that are blank
	all            bool  // everything was looked at
	read, lay      float64
}

// choose predicts what either strategy costs and takes the one that was asked for, or the quicker one. What the probe
// writes belongs where it is written, so nothing is done twice. It expects one part and a target that may be written to.
func (f *flash) choose(ctx context.Context, want lab.Strategy) (lab.Forecast, error) {
	b := &probe{flash: f, p: &f.parts[0]}
	f.chart(b.p)
	for i, s := range b.p.state {
		n := int64(b.p.Len(i))
		switch {
		case s == blank:
			b.blank += n
		case s == unknown && b.p.IDs[i].IsZero():
			b.unknown += n
		case s == unknown:
			b.unknown, b.used = b.unknown+n, b.used+n
		}
	}
	before := slices.Clone(b.p.state)
	if err := b.look(ctx); err != nil {
		return lab.Forecast{}, err
	}
	if f.vouch != nil { // what is laid must not come before the last look at what it is laid over
		f.gauge.enter(lab.RungHash, b.p.Size)
		if err := f.comparePart(ctx, b.p); err != nil {
			return lab.Forecast{}, err
		}
		b.all = true
	}
	b.count(before)
	if b.p.Lazy { // what is laid to measure comes over the wire, which its system is not to wait for
		return b.judge(want), nil
	}
	if want != lab.Auto || b.unknown+b.blank >= probeFrom || b.unknown == 0 {
		if err := b.try(ctx); err != nil {
			return lab.Forecast{}, err
		}
	}
	fc := b.judge(want)
	if fc.Strategy == lab.Full && b.all { // what is there already is written once more
		for i, s := range b.p.state {
			if s == same && before[i] == unknown {
				b.p.state[i] = unknown
			}
		}
	}
	return fc, nil
}

// look reads and hashes some of what is unknown.
func (b *probe) look(ctx context.Context) error {
	var candidates []int
	for i, s := range b.p.state {
		if s == unknown {
			candidates = append(candidates, i)
		}
	}
	var runs []int
	for k, n := 0, min(probeRuns, len(candidates)); k < n; k++ {
		first, end := k*len(candidates)/n, (k+1)*len(candidates)/n
		at := candidates[first+rand.IntN(end-first)] // by chance: an earlier probe laid chunks at regular places
		if len(runs) == 0 || at >= runs[len(runs)-1]+probeRun {
			runs = append(runs, at)
		}
	}
	before, began := b.counts.read.Load(), time.Now()
	var next atomic.Int64
	err := together(workers(), func(ctx context.Context) error {
		buf := aligned(reading)
		for k := int(next.Add(1)) - 1; k < len(runs) && ctx.Err() == nil; k = int(next.Add(1)) - 1 {
			if err := b.compareRun(b.p, runs[k], min(runs[k]+probeRun, len(b.p.IDs)), buf); err != nil {
				return err
			}
		}
		return context.Cause(ctx)
	}).Run(ctx)
	if err != nil {
		return err
	}
	b.read = rate(b.counts.read.Load()-before, time.Since(began))
	return nil
}

// count sums up what was found in places that were unknown before.
func (b *probe) count(before []state) {
	for i, s := range b.p.state {
		if before[i] != unknown || s == unknown || b.p.IDs[i].IsZero() {
			continue
		}
		n := int64(b.p.Len(i))
		b.looked += n
		switch s {
		case same:
			b.equal += n
		case blank:
			b.void += n
		}
	}
}

// try lays some of the chunks that have to be written, as the flash will.
func (b *probe) try(ctx context.Context) error {
	var candidates []int
	for i, s := range b.p.state {
		if (s == blank || s == other) && !b.p.IDs[i].IsZero() {
			candidates = append(candidates, i)
		}
	}
	n := min(max(8, len(candidates)/32), probeWrites, len(candidates)) // of many machines each has these from the server
	if n == 0 {
		return nil
	}
	if err := b.tell(ctx, lab.Report{Writing: true}); err != nil {
		return err
	}
	ids, places := []chunk.ID{}, map[chunk.ID][]place{}
	for k := range n {
		i := candidates[k*len(candidates)/n]
		if id := b.p.IDs[i]; places[id] == nil {
			ids, places[id] = append(ids, id), []place{{b.p, i}}
		}
	}
	warm := len(ids) / 4 // the first ones pay for what is made once
	if err := b.layAll(ctx, ids[:warm], places); err != nil {
		return err
	}
	began := time.Now()
	if err := b.layAll(ctx, ids[warm:], places); err != nil {
		return err
	}
	var bytes int64
	for _, id := range ids[warm:] {
		bytes += int64(places[id][0].p.Len(places[id][0].i))
	}
	b.lay = rate(bytes, time.Since(began))
	for _, at := range places {
		at[0].p.state[at[0].i] = laid
	}
	return b.prove(ctx, ids, places)
}

// layAll fetches and writes chunks as the flash will, and waits until they are on the medium.
func (b *probe) layAll(ctx context.Context, ids []chunk.ID, places map[chunk.ID][]place) error {
	var next atomic.Int64
	const step = 4
	err := together(fetchers, func(ctx context.Context) error {
		for from := int(next.Add(step)) - step; from < len(ids); from = int(next.Add(step)) - step {
			if err := b.fetch(ctx, ids[from:min(from+step, len(ids))], places); err != nil {
				return err
			}
		}
		return nil
	}).Run(ctx)
	if err == nil {
		err = b.settle()
	}
	if err != nil {
		return fmt.Errorf("probe %s: %w", b.name, err)
	}
	return nil
}

// prove reads back what was laid, where all will be read back, and so measures a target that had nothing to read.
func (b *probe) prove(ctx context.Context, ids []chunk.ID, places map[chunk.ID][]place) error {
	if !b.check.All() {
		return nil
	}
	if err := b.disk.Forget(); err != nil {
		return fmt.Errorf("read back %s: %w", b.name, err)
	}
	before, began := b.counts.read.Load(), time.Now()
	var next atomic.Int64
	err := together(workers(), func(ctx context.Context) error {
		buf := aligned(chunk.Size)
		for k := int(next.Add(1)) - 1; k < len(ids) && ctx.Err() == nil; k = int(next.Add(1)) - 1 {
			at := places[ids[k]][0]
			off, n := at.p.at(at.i)
			if err := b.readAt(buf[:n], off); err != nil {
				return err
			}
			if chunk.Sum(buf[:n]) != ids[k] {
				return b.broken(off)
			}
			at.p.state[at.i] = proven
		}
		return context.Cause(ctx)
	}).Run(ctx)
	if b.read == 0 {
		b.read = rate(b.counts.read.Load()-before, time.Since(began))
	}
	return err
}

// settle waits until what was laid is on the medium, without the file system's own work where that can be left for later.
func (b *probe) settle() error {
	if d, ok := b.disk.(interface{ Push() error }); ok {
		return d.Push()
	}
	return b.disk.Sync()
}

// judge turns rates into times.
func (b *probe) judge(want lab.Strategy) (f lab.Forecast) {
	defer func() {
		f.Predicted = f.Differential
		if f.Strategy == lab.Full {
			f.Predicted = f.Full
		}
	}()
	share := 0.0 // of what is used that is there already
	if b.looked > 0 {
		share = float64(b.equal) / float64(b.looked)
	}
	read, lay := b.read, b.lay
	if read == 0 {
		read = max(lay, 1) // nothing to read: it is read back no slower than it was written
	}
	if lay == 0 {
		lay = max(read/2, 1) // nothing to write was found
	}
	changed := float64(b.blank) + float64(b.used)*(1-share)
	all := float64(b.blank + b.used)
	back := map[lab.Check]float64{lab.CheckSampled: 1.0 / sampling, lab.CheckNever: 0}
	again, partly := back[b.check]
	if !partly {
		again = 1
	}
	zero := float64(b.unknown - b.used) // is zeroed and read back, unseen, about as fast as it is read
	f.Full = all/lay + again*all/read + zero*(1+again)/read
	f.Differential = float64(b.unknown)/read + changed/lay + again*changed/read
	if b.all { // this was to be read first, whatever follows
		f.Full += float64(b.unknown) / read
	}
	rates := fmt.Sprintf("reads %s/s, lays %s/s", lab.Bytes(int64(read)), lab.Bytes(int64(lay)))
	switch {
	case b.lay == 0 && changed > 0:
		rates = fmt.Sprintf("reads %s/s, too little to measure writing", lab.Bytes(int64(read)))
	case b.lay == 0:
		rates = fmt.Sprintf("reads %s/s, nothing to lay was found in %s", lab.Bytes(int64(read)), b.scope())
	}
	sure := b.lay > 0 || share == 0 // how fast it lays is measured, or the same for either
	switch {
	case want == lab.Full || want == lab.Differential:
		f.Strategy, f.Why = want, "it was asked for; "+rates
	case b.unknown == 0:
		f.Strategy, f.Why = lab.Full, "the target is blank, nothing has to be read; "+rates
	case sure && f.Full < gain*f.Differential:
		f.Strategy, f.Why = lab.Full, b.found(share)+"; "+rates
	case f.Full < f.Differential:
		f.Strategy, f.Why = lab.Differential, b.found(share)+", and full would not gain enough; "+rates
	default:
		f.Strategy, f.Why = lab.Differential, b.found(share)+"; "+rates
	}
	return f
}

// found says what was found where the image is not zero.
func (b *probe) found(share float64) string {
	what := "what was sampled"
	if b.all {
		what = "it"
	}
	if b.looked == 0 {
		return "the image is zero wherever something may be"
	}
	if b.void == b.looked {
		if b.all {
			return "all was read, and is blank where it is used"
		}
		return "all that was sampled is blank"
	}
	return fmt.Sprintf("%.0f %% of %s is there already", 100*share, what)
}

// scope is where was looked.
func (b *probe) scope() string {
	if b.all || b.looked >= b.used {
		return "it"
	}
	return fmt.Sprintf("a sample of %s; the rest, %s, is not known yet", lab.Bytes(b.looked), lab.Bytes(b.used-b.looked))
}

func rate(n int64, d time.Duration) float64 { return float64(n) / max(d.Seconds(), 1e-6) }
