package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"carte/lab"
	"carte/lab/chunk"
	"carte/lab/layout"
)

// capture carries out orders to capture, and returns what is to be done next. The errors are those of boot.
func (s *session) capture(ctx context.Context, o lab.Orders) (next lab.Orders, err error) {
	w := &work{session: s, orders: o}
	began := time.Now()
	s.say("this is %s; boot %d: %s, disk %s; it is only read", o.Machine, o.Boot, o.Stack, o.Disk)
	var got lab.Imported
	err = group{w.pulse, func(ctx context.Context) error {
		if got, err = w.take(ctx); err != nil {
			return err
		}
		return errDone
	}}.Run(ctx)
	if err != nil {
		return next, w.fail(ctx, err)
	}
	what := "is " + got.Version.Ref().String()
	if got.Same {
		what = "is as " + got.Version.Ref().String() + " is; no version was made"
	}
	s.say("boot %d: disk %s %s: %s read, %s sent in %.1f s", o.Boot, o.Disk, what, lab.Bytes(w.read.Load()), lab.Bytes(w.sent.Load()), time.Since(began).Seconds())
	return s.wait(ctx, lab.Orders{}, s.Interval)
}

// take reads the disk that the orders name and sends what the server lacks of it, until there is a version.
func (w *work) take(ctx context.Context) (got lab.Imported, err error) {
	if err := w.reach(ctx, 0, lab.Report{Rung: lab.RungProbe}); err != nil {
		return got, err
	}
	if w.ReadDisk == nil {
		return got, fmt.Errorf("this agent cannot read disks without writing: %w", lab.ErrInvalid)
	}
	o := w.orders
	d, err := w.ReadDisk(o.Disk)
	if err != nil {
		return got, err
	}
	defer func() {
		if e := d.Close(); e != nil && err == nil {
			err = fmt.Errorf("close disk %s: %w", o.Disk, e)
		}
	}()
	if d.Size() != o.Disk.Bytes {
		return got, fmt.Errorf("disk %s has %d bytes and should have %d; it is not the one that was asked for: %w", o.Disk, d.Size(), o.Disk.Bytes, lab.ErrRefused)
	}
	last := func(ctx context.Context) error { return w.tell(ctx, lab.Report{}) } // so that the boot's record has all counts
	up := &uplink{w.client, &w.sent, last}
	x := &capture{to: up, flash: flash{
		counts: &w.counts, teller: w, source: w.client, disk: d, name: "disk " + o.Disk.String(), pause: w.client.pause,
	}}
	if x.compared(ctx, o.Base); ctx.Err() != nil {
		return got, context.Cause(ctx)
	}
	e, why, err := w.extractOf(ctx, x)
	if err != nil {
		return got, fmt.Errorf("disk %s: %w", o.Disk, err)
	}
	w.say("%s: %s", x.name, why)
	x.disk = e
	w.taking.Store(e.size)
	if x.spare, err = layout.Read(ctx, e, e.size); err != nil {
		return got, fmt.Errorf("disk %s: %w", o.Disk, err)
	}
	kept := x.tellKept()
	if err := w.tell(ctx, lab.Report{Rung: lab.RungProbe, Forecast: lab.Forecast{Strategy: lab.Differential, Why: strings.Join(append([]string{why}, kept...), "; ")}}); err != nil {
		return got, err
	}
	return x.run(ctx, nil)
}

// extractOf finds the image on the open disk.
func (w *work) extractOf(ctx context.Context, x *capture) (*extract, string, error) {
	o, end := w.orders, x.disk.Size()
	if o.Form == lab.FormTree {
		return treePart(x.disk, o.Base)
	}
	if !o.Tail.None() && isTail(x.disk, o.Tail, o.Disk) {
		end = o.Tail.Offset
	}
	return wholeDisk(x.disk, x.base.Size, func() ([]byte, error) {
		switch {
		case x.base.Size == 0:
			return nil, nil
		case x.base.IDs[0].Implied():
			return make([]byte, x.base.Len(0)), nil
		}
		head, err := x.one(ctx, x.base.IDs[0], x.base.Len(0))
		if errors.Is(err, chunk.ErrDamaged) { // the disk is to be had, and the base is not
			return nil, nil
		}
		return head, err
	}, end)
}
