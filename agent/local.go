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

// marked is alone, and writes down that writing begins before it does.
type marked struct {
	alone
	mark *mark
}

func (a marked) reach(ctx context.Context, of int64, r lab.Report) error {
	a.gauge.enter(r.Rung, of)
	return a.tell(ctx, r)
}

func (a marked) tell(_ context.Context, r lab.Report) error {
	if !r.Writing {
		return nil
	}
	if err := a.mark.set(); err != nil {
		a.mark.path = ""
		a.say("that this flash has begun cannot be written down: %v", err)
	}
	return nil
}

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
	source := &faulty{Source: from}
	c := &counts{}
	m, err := from.Manifest(ctx, o.Version.Root, o.Version.Bytes)
	if err != nil {
		return done, partial(o, c, source, nil, err)
	}
	t, mk, v, err := readyTarget(ctx, from, o, m)
	if err != nil {
		return done, partial(o, c, source, nil, err)
	}
	a := marked{alone{c, hear}, &mk}
	f := &flash{
		counts: c, teller: a, source: source, disk: t, name: o.To, pause: 100 * time.Millisecond, check: o.Check, vouch: v,
		parts: []part{newPart(lab.Write{Ref: o.Version.Ref(), Root: o.Version.Root, Bytes: o.Version.Bytes}, m)},
	}
	var fc lab.Forecast
	var grown layout.Partition
	err = group{a.pulse, func(ctx context.Context) error {
		var err error
		if grown, fc, err = f.alone(ctx, o); err != nil {
			return err
		}
		return errDone
	}}.Run(ctx)
	if err != nil {
		err = partial(o, c, source, &mk, err)
		if c.touched() {
			return c.done(began), errors.Join(err, t.Close())
		}
		if !mk.there {
			err = errors.Join(err, mk.drop())
		}
		return done, errors.Join(err, t.discard())
	}
	if err := errors.Join(t.Close(), mk.drop()); err != nil {
		return c.done(began), fmt.Errorf("flash %s: %s holds it, but: %w", o.Version.Ref(), o.To, err)
	}
	done = c.done(began)
	if err := grownLocal(o, grown, a.say); err != nil {
		return done, err
	}
	done.Seconds = time.Since(began).Seconds()
	done.Image, done.Version, done.Root, done.Path, done.Verify, done.Total = o.Version.Image, o.Version.Number, o.Version.Root, o.To, o.Check, o.Version.Bytes
	done.Forecast = fc
	done.Same = !c.touched()
	return done, nil
}

// alone makes an open target equal to the version. Nothing is written before all that will be written over is known.
func (f *flash) alone(ctx context.Context, o lab.Flash) (grown layout.Partition, fc lab.Forecast, err error) {
	if grown, err = f.amend(ctx, lab.DiskID{}, 0, o.Grow); err != nil {
		return grown, fc, err
	}
	if f.vouch != nil {
		if err := f.vouched(ctx); err != nil {
			return grown, fc, err
		}
	}
	if fc, err = f.chosen(ctx, o.Strategy); err != nil {
		return grown, fc, err
	}
	return grown, fc, f.run(ctx)
}

// grownLocal lets the file system of a partition that has grown take its room.
func grownLocal(o lab.Flash, p layout.Partition, say func(string, ...any)) error {
	if p.Bytes == 0 {
		return nil
	}
	was, is, err := growFS(o.To, p)
	if err == nil {
		say("the file system of partition %d has grown from %s to %s", p.Number, lab.Bytes(was), lab.Bytes(is))
		return nil
	}
	todo := "its own tools grow it"
	if !errors.Is(err, lab.ErrInvalid) {
		todo = "resize2fs grows it: in the system when it runs, or here as root with every right (CAP_SYS_RESOURCE)"
	}
	return fmt.Errorf("%s holds %s, all of it, and partition %d has grown to %s; its file system has not, %s: %w", o.To, o.Version.Ref(), p.Number, lab.Bytes(p.Bytes), todo, err)
}

// readyTarget opens the target, asks the guards, and makes room. A nil vouch: all that is there may go.
func readyTarget(ctx context.Context, from Source, o lab.Flash, m chunk.Manifest) (_ *target, mk mark, v *vouch, err error) {
	t, err := openTarget(o.To)
	if err != nil {
		return nil, mk, nil, err
	}
	mk = markOf(t, o)
	v, err = t.guard(ctx, o, mk, m, func(x lab.Version) (chunk.Manifest, error) { return from.Manifest(ctx, x.Root, x.Bytes) })
	if err == nil {
		err = t.fit(o.Version.Bytes)
	}
	if err == nil && t.fresh {
		err = syncFolder(filepath.Dir(o.To))
	}
	if err != nil {
		return nil, mk, nil, errors.Join(err, t.discard())
	}
	return t, mk, v, nil
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

// touched says whether anything was written.
func (c *counts) touched() bool { return c.written.Load()+c.zeroed.Load() > 0 }

// partial says what an error left, and what to do. m is nil before anything could be written.
func partial(o lab.Flash, c *counts, from *faulty, m *mark, err error) error {
	ref, again := o.Version.Ref(), "the same command goes on from there"
	if m != nil && m.path == "" && o.Confirm == "" {
		again = fmt.Sprintf("the same command goes on from there, with --confirm %s where it asks", o.To)
	}
	interrupted := errors.Is(err, context.Canceled)
	switch {
	case !c.touched() && interrupted:
		return fmt.Errorf("%s was not changed: %w", o.To, context.Canceled)
	case m == nil, !c.touched() && errors.Is(err, lab.ErrConfirm):
		return fmt.Errorf("flash %s: %w", ref, err)
	case !c.touched() && from.caused(err) && errors.Is(err, lab.ErrDamaged):
		return fmt.Errorf("flash %s: %w; %s was not changed; mend the image first: carte fsck", ref, err, o.To)
	case !c.touched():
		return fmt.Errorf("flash %s: %w; %s was not changed", ref, err, o.To)
	case interrupted:
		return fmt.Errorf("%s holds a part of %s; %s: %w", o.To, ref, again, context.Canceled)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("flash %s: %w; free some room and do it again: what is in %s by now is used", ref, err, o.To)
	case from.caused(err) && errors.Is(err, lab.ErrDamaged):
		return fmt.Errorf("flash %s: %w; %s holds a part of it; mend the image first: carte fsck; then the same command goes on", ref, err, o.To)
	case from.caused(err):
		return fmt.Errorf("flash %s: %w; %s holds a part of it, which is used when the image can be had again", ref, err, o.To)
	case errors.Is(err, lab.ErrDamaged): // the target does not keep what it is given
		return fmt.Errorf("flash %s: %w; %s holds a part of it", ref, err, o.To)
	}
	return fmt.Errorf("flash %s: %w; %s holds a part of it, and %s", ref, err, o.To, again)
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
