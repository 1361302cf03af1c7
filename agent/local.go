package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"carte/lab"
	"carte/lab/chunk"
	"carte/lab/layout"
)

// An Audience hears how something long goes on; either may be nil. Progress comes some times a second.
type Audience struct {
	Progress func(lab.Progress)
	Say      func(line string)
}

// alone is a flash that no server is told of.
type alone struct {
	*counts
	Audience
}

func (a alone) reach(_ context.Context, of int64, r lab.Report) error {
	a.gauge.enter(r.Rung, of)
	return nil
}

func (a alone) tell(context.Context, lab.Report) error { return nil }

func (a alone) say(format string, args ...any) {
	if a.Say != nil {
		a.Say(fmt.Sprintf(format, args...))
	}
}

// pulse shows progress until ctx ends.
func (a alone) pulse(ctx context.Context) error {
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if a.Progress != nil {
				a.Progress(a.gauge.progress())
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Flash lays a version onto a file or device of this computer, with the same core as on a machine. An error leaves what
// was written by then; the same flash again goes on from there.
func Flash(ctx context.Context, from Source, o lab.Flash, hear Audience) (done lab.Flashed, err error) {
	began := time.Now()
	if o.Strategy == "" {
		o.Strategy = lab.Auto
	}
	if o.Check == "" {
		o.Check = lab.CheckAlways
	}
	if !slices.Contains(lab.Strategies, o.Strategy) {
		return done, fmt.Errorf("strategy %q is none of auto, full, differential: %w", o.Strategy, lab.ErrInvalid)
	}
	if !slices.Contains(lab.Checks, o.Check) {
		return done, fmt.Errorf("verify %q is none of always, sampled, never: %w", o.Check, lab.ErrInvalid)
	}
	m, err := from.Manifest(ctx, o.Version.Root, o.Version.Bytes)
	if err != nil {
		return done, fmt.Errorf("flash %s: %w", o.Version.Ref(), err)
	}
	t, err := readyTarget(ctx, from, o, m)
	if err != nil {
		return done, err
	}
	c := &counts{}
	f := &flash{
		counts: c, teller: alone{c, hear}, source: from, disk: t, name: o.To, pause: 100 * time.Millisecond, check: o.Check,
		parts: []part{newPart(lab.Write{Ref: o.Version.Ref(), Root: o.Version.Root, Bytes: o.Version.Bytes}, m)},
	}
	var fc lab.Forecast
	var grown layout.Partition
	err = group{alone{c, hear}.pulse, func(ctx context.Context) error {
		if !t.plain || o.Grow { // a file is the image's bytes, unless it is to be a larger disk
			if grown, err = f.amend(ctx, lab.DiskID{}, 0, o.Grow); err != nil {
				return err
			}
		}
		if fc, err = f.chosen(ctx, o.Strategy); err != nil {
			return err
		}
		if err := f.run(ctx); err != nil {
			return err
		}
		return errDone
	}}.Run(ctx)
	if e := t.Close(); e != nil && err == nil {
		err = fmt.Errorf("close %s: %w", o.To, e)
	}
	if err == nil && grown.Bytes > 0 {
		var was, is int64
		if was, is, err = growFS(o.To, grown); err == nil {
			f.say("the file system of partition %d has grown from %s to %s", grown.Number, lab.Bytes(was), lab.Bytes(is))
		}
	}
	if err != nil {
		return done, partial(o, c, err)
	}
	done = c.done(began)
	done.Image, done.Version, done.Root, done.Path, done.Verify, done.Total = o.Version.Image, o.Version.Number, o.Version.Root, o.To, o.Check, o.Version.Bytes
	done.Forecast = fc
	done.Same = done.Written+done.Zeroed == 0
	return done, nil
}

// readyTarget opens the target, asks the guards, and makes room.
func readyTarget(ctx context.Context, from Source, o lab.Flash, m chunk.Manifest) (_ *target, err error) {
	known := []chunk.Manifest{m}
	for _, v := range o.Known {
		if v.Root == o.Version.Root || len(known) == 8 {
			continue
		}
		if m, err := from.Manifest(ctx, v.Root, v.Bytes); err == nil { // one that is damaged vouches for nothing
			known = append(known, m)
		}
	}
	t, err := openTarget(o.To)
	if err != nil {
		return nil, fmt.Errorf("flash %s: %w", o.Version.Ref(), err)
	}
	if err = t.guard(ctx, o, known); err == nil {
		err = t.fit(o.Version.Bytes)
	}
	if err == nil && t.fresh {
		err = syncFolder(filepath.Dir(o.To))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("flash %s: %w", o.Version.Ref(), err), t.Close(), t.discard())
	}
	return t, nil
}

// chosen decides on a strategy and says so.
func (f *flash) chosen(ctx context.Context, want lab.Strategy) (lab.Forecast, error) {
	f.gauge.enter(lab.RungProbe, 0)
	fc, err := f.choose(ctx, want)
	if err != nil {
		return fc, err
	}
	f.blind = fc.Strategy == lab.Full
	f.say("strategy %s, %.1f s (full %.1f s, differential %.1f s): %s", fc.Strategy, fc.Predicted, fc.Full, fc.Differential, fc.Why)
	return fc, nil
}

// partial says what an error left.
func partial(o lab.Flash, c *counts, err error) error {
	switch {
	case c.written.Load()+c.zeroed.Load() == 0:
		return fmt.Errorf("flash %s: %w; %s was not changed", o.Version.Ref(), err, o.To)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("flash %s: %w; free some room and do it again: what is in %s by now is used", o.Version.Ref(), err, o.To)
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("flash %s was interrupted: %s holds a part of it; the same command goes on from there: %w", o.Version.Ref(), o.To, err)
	}
	return fmt.Errorf("flash %s: %w; %s holds a part of it, and the same command goes on from there", o.Version.Ref(), err, o.To)
}

// done is what was moved.
func (c *counts) done(began time.Time) lab.Flashed {
	return lab.Flashed{
		Read: c.read.Load(), Fetched: c.fetched.Load(), Written: c.written.Load(), Zeroed: c.zeroed.Load(), Kept: c.kept.Load(),
		Seconds: time.Since(began).Seconds(), PeakRSS: peakRSS(),
	}
}

// peakRSS is the most memory that this process has had, in bytes (proc(5), VmHWM); 0 when nobody can tell.
func peakRSS() int64 {
	f, err := os.Open("/proc/self/status")
	if err != nil {
		return 0
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if v, ok := strings.CutPrefix(s.Text(), "VmHWM:"); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(v, "kB")), 10, 64)
			if err != nil {
				return 0
			}
			return n << 10
		}
	}
	return 0
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
