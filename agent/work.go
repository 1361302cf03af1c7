package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"carte/lab"
	"carte/lab/layout"
)

// work is one boot: what it moved, how far it is, and the one who tells the server.
type work struct {
	*session
	counts
	orders  lab.Orders
	swarm   *swarm           // other machines; nil: nobody
	grown   layout.Partition // the partition that took the room of the disk; empty: none
	chosen  lab.Forecast     // of a reset that was done, told with the rung that follows; empty: all was compared
	writing atomic.Bool      // the server was told that the disk is being written
	taking  atomic.Int64     // of a capture: how long the image is
	telling sync.Mutex       // one report at a time, so that they arrive in order
}

// counts is what is moved, in bytes, and how far the rung is.
type counts struct {
	read, fetched, peers, reused, written, zeroed, sent atomic.Int64 // as in lab.Moved
	kept                                                atomic.Int64 // parts of chunks that differ which the disk has already
	gauge                                               gauge
}

// revoked is the error that says that the server calls the boot back.
type revoked struct{ why string }

func (r *revoked) Error() string { return r.why }

// gauge measures the progress on the rung that the boot is on.
type gauge struct {
	done atomic.Int64 // bytes

	mu   sync.Mutex
	rung lab.Rung
	of   int64
	last int64 // done at the time of at
	at   time.Time
	rate float64
}

func (g *gauge) enter(r lab.Rung, of int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.rung, g.of, g.last, g.at, g.rate = r, of, 0, time.Now(), 0
	g.done.Store(0)
}

// rename makes one rung another without beginning to count anew; it reports whether the rung was the one.
func (g *gauge) rename(from, to lab.Rung) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.rung != from {
		return false
	}
	g.rung = to
	return true
}

// progress returns how far it is. The rate is an average that forgets half of the past at every call.
func (g *gauge) progress() lab.Progress {
	g.mu.Lock()
	defer g.mu.Unlock()
	done, now := g.done.Load(), time.Now()
	if d := now.Sub(g.at).Seconds(); d > 0.05 && g.of > 0 {
		rate := float64(done-g.last) / d
		if g.rate > 0 {
			rate = (rate + g.rate) / 2
		}
		g.last, g.at, g.rate = done, now, rate
	}
	return lab.Progress{Rung: g.rung, Done: done, Of: g.of, Rate: g.rate}
}

// tell sends a report, filled in with what is counted, and waits until the server has it. A reply that calls the boot
// back becomes an error.
func (w *work) tell(ctx context.Context, r lab.Report) error {
	w.telling.Lock()
	defer w.telling.Unlock()
	lines, mark := w.unsaid()
	r.Boot, r.Lines, r.Progress = w.orders.Boot, lines, w.gauge.progress()
	if r.Rung == "" {
		r.Rung = r.Progress.Rung
	}
	r.Moved = w.moved()
	if w.swarm != nil {
		r.Peer = w.swarm.me
	}
	reply, err := w.client.report(ctx, r)
	if err != nil {
		return err
	}
	w.said(mark)
	w.swarm.meet(reply.Peers)
	if r.Writing {
		w.writing.Store(true)
	}
	if reply.Revoke != "" {
		return &revoked{reply.Revoke}
	}
	return nil
}

// moved is what the boot has moved so far, and of how much.
func (w *work) moved() lab.Moved {
	m := w.counts.moved()
	m.Total = w.taking.Load()
	for _, x := range w.orders.Writes {
		m.Total += x.Bytes
	}
	return m
}

// moved is what was moved so far.
func (c *counts) moved() lab.Moved {
	return lab.Moved{
		Read: c.read.Load(), Fetched: c.fetched.Load(), Peers: c.peers.Load(), Reused: c.reused.Load(),
		Written: c.written.Load(), Zeroed: c.zeroed.Load(), Sent: c.sent.Load(),
	}
}

// reach tells that the boot has reached a rung on which it will move of bytes.
func (w *work) reach(ctx context.Context, of int64, r lab.Report) error {
	w.gauge.enter(r.Rung, of)
	return w.tell(ctx, r)
}

// pulse reports in regular intervals. It ends when the boot is called back, or is no longer ours, or with ctx.
func (w *work) pulse(ctx context.Context) error {
	every := w.Interval
	if w.resets() {
		every *= 2 // the first would come when most of them are over
	}
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if err := w.tell(ctx, lab.Report{}); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// boot carries out orders to boot. It returns nil when the user's system was started, or where nothing was to be started, *revoked when the server called
// the boot back, and *Ended when it failed and the server knows.
func (s *session) boot(ctx context.Context, o lab.Orders) error {
	w := &work{session: s, orders: o}
	began := time.Now()
	s.say("this is %s; boot %d: %s onto disk %s", o.Machine, o.Boot, o.Stack, o.Disk)
	if !w.resets() { // there is nothing to fetch, and making a certificate takes its time
		w.openSwarm()
	}
	err := group{w.pulse, w.serve, func(ctx context.Context) error {
		if err := w.climb(ctx); err != nil {
			return err
		}
		return errDone
	}}.Run(ctx)
	w.swarm = nil
	if err == nil && o.Start == lab.StartLay {
		s.say("boot %d: %s is laid after %.1f s", o.Boot, o.Stack, time.Since(began).Seconds())
		return nil
	}
	if err == nil {
		s.say("boot %d: %s starts after %.1f s", o.Boot, o.Stack, time.Since(began).Seconds())
		return s.Handover(ctx, w.orders)
	}
	return w.fail(ctx, err)
}

// climb takes the boot from its orders to the server's leave to start the user's system.
func (w *work) climb(ctx context.Context) error {
	if !w.resets() {
		if err := w.reach(ctx, 0, lab.Report{Rung: lab.RungProbe}); err != nil {
			return err
		}
	}
	if err := w.flash(ctx); err != nil {
		return err
	}
	if err := w.settle(ctx); err != nil {
		return err
	}
	if words := notOverlaid(w.orders); words != "" {
		w.say("%s", words)
	}
	undo := func() error { return nil }
	err := group{w.noted, func(ctx context.Context) (err error) { // each waits for the disk more than for the other
		if w.Prepare == nil {
			return nil
		}
		if quick := w.chosen != (lab.Forecast{}) && w.orders.Start == lab.StartPivot; w.orders.Start.Prepared() && !quick {
			if err := w.reach(ctx, 0, lab.Report{Rung: lab.RungPrepare, Forecast: w.chosen}); err != nil {
				return err
			}
		}
		if undo, err = w.Prepare(ctx, w.ready()); err != nil {
			return fmt.Errorf("prepare the start: %w", err)
		}
		return nil
	}}.Run(ctx)
	if err != nil {
		return err
	}
	err = w.reach(ctx, 0, lab.Report{Rung: lab.RungHandover, Forecast: w.chosen})
	if err != nil {
		if e := undo(); e != nil {
			w.say("what was prepared could not be taken back: %v", e)
		}
	}
	return err
}

func (w *work) ready() Ready {
	line := ""
	if w.notedBeside() {
		line = w.noteLine()
	}
	return Ready{
		Orders: w.orders, Note: line, Server: w.client.base, Pin: w.Pin, Key: w.client.key, Say: w.say, Send: w.client.sendStage,
		NoKexec: func(ctx context.Context, why error) error { return w.tell(ctx, lab.Report{NoKexec: plainly(why)}) },
	}
}

// flash opens the disk, makes it equal to the orders, and closes it.
func (w *work) flash(ctx context.Context) (err error) {
	parts, err := w.parts(ctx)
	if err != nil {
		return err
	}
	f := &flash{counts: &w.counts, teller: w, source: w.client, swarm: w.swarm, name: "disk " + w.orders.Disk.String(), pause: w.client.pause, parts: parts}
	f.disk, err = w.OpenDisk(w.orders.Disk)
	if err != nil {
		return err
	}
	defer func() {
		w.swarm.unshelve()
		if e := f.disk.Close(); e != nil && err == nil {
			err = fmt.Errorf("close disk %s: %w", w.orders.Disk, e)
		}
	}()
	if id := w.orders.Disk; f.disk.Size() != id.Bytes {
		return fmt.Errorf("disk %s has %d bytes and should have %d; it is not the one that was armed: %w", id, f.disk.Size(), id.Bytes, lab.ErrRefused)
	}
	if err := w.lay(ctx, f); err != nil {
		return err
	}
	w.telling.Lock()
	defer w.telling.Unlock()
	w.orders.Writes = f.stillLazy()
	return nil
}

// lay makes the open disk equal to the orders.
func (w *work) lay(ctx context.Context, f *flash) (err error) {
	if done, err := w.reset(ctx, f); done || err != nil {
		return err
	}
	end, err := w.openTail(ctx, f)
	if err != nil {
		return err
	}
	defer func() {
		if e := end(); e != nil && err == nil {
			w.say("the cache was not written down, it is empty next time: %v", e)
		}
	}()
	if err := w.tables(ctx, f); err != nil { // which looks into what the tail keeps
		return err
	}
	for _, x := range w.orders.Had {
		if m, err := w.client.Manifest(ctx, x.Root, x.Bytes); err == nil { // one that cannot be had helps nobody
			f.had = append(f.had, newPart(x, m))
		} else if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	fc, err := f.chosen(ctx, lab.Auto)
	if err == nil {
		err = w.tell(ctx, lab.Report{Rung: lab.RungProbe, Forecast: fc})
	}
	if err != nil {
		return err
	}
	w.give(ctx, f) // before it is written over
	err = f.run(ctx)
	w.give(ctx, f)
	return err
}

// openTail opens carte's own end of the disk, which makes it where it is not; the server knows before. Its cache then takes
// part in the flash. A tail that cannot be had costs what the wire costs. end writes down what the cache holds.
func (w *work) openTail(ctx context.Context, f *flash) (end func() error, err error) {
	none := func() error { return nil }
	if w.orders.Tail.None() {
		return none, nil
	}
	if !isTail(f.disk, w.orders.Tail, w.orders.Disk) {
		if err := w.tell(ctx, lab.Report{Writing: true}); err != nil {
			return nil, err
		}
	}
	t, err := openTail(f.disk, w.orders.Tail, w.orders.Disk)
	if err != nil {
		w.say("%s goes on without its tail: %v", f.name, err)
		return none, nil
	}
	w.say("%s has %v", f.name, t)
	if w.spins(w.orders.Disk) { // writing here and there costs more seeks than the wire costs time
		w.say("%s spins: it keeps no chunks in its tail", f.name)
		return none, nil
	}
	c := &cached{cache: t.cache, say: w.say}
	f.nearby, f.keep = append(f.nearby, c), c.put
	return func() error {
		if !w.writing.Load() { // which chunks were read last is not worth a first byte
			return nil
		}
		return t.cache.Close()
	}, nil
}

// spins says whether a disk is one of those whose head has to move.
func (s *session) spins(id lab.DiskID) bool {
	return slices.ContainsFunc(s.found.Disks, func(d lab.Disk) bool { return d.Is(id) && d.Rotational })
}

// isTail says whether the tail is there and need not be made.
func isTail(d Disk, t lab.DiskTail, id lab.DiskID) bool {
	page := aligned(lab.TailHeader)
	_, err := d.ReadAt(page, t.Header())
	return err == nil && bytes.Equal(page, tailPage(t, id))
}

// fail tells the server how the boot ended. Nothing is being written any more when it is called.
func (w *work) fail(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, lab.ErrDenied) {
		return err
	}
	if c := (*crash)(nil); errors.As(err, &c) {
		w.say("%s", c.stack)
	}
	r := lab.Report{Error: plainly(err), Fatal: hopeless(err)}
	why := (*revoked)(nil)
	if errors.As(err, &why) {
		w.say("boot %d is called back: %s; nothing is being written any more", w.orders.Boot, why.why)
		r = lab.Report{Revoked: true}
	} else {
		w.say("boot %d FAILED: %s", w.orders.Boot, r.Error)
	}
	if told := w.tell(ctx, r); told != nil && !errors.As(told, new(*revoked)) {
		if ctx.Err() != nil {
			return told
		}
		return fmt.Errorf("%w (and the server did not take the report: %w)", err, told)
	}
	if why != nil {
		return why
	}
	return &Ended{Err: err, Again: !r.Fatal}
}

// hopeless says whether trying the same again cannot help: orders that this agent cannot carry out. An agent with a bug
// may well get further next time.
func hopeless(err error) bool {
	return errors.Is(err, lab.ErrInvalid) || errors.Is(err, lab.ErrRefused)
}

// plainly is an error in words, without the name of its kind at the end, which is for programs.
func plainly(err error) string {
	text := err.Error()
	for _, f := range lab.Failings {
		if f.Kind != nil && errors.Is(err, f.Kind) {
			text = strings.TrimSuffix(text, ": "+f.Kind.Error())
		}
	}
	return text
}
