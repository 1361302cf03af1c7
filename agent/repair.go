package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"carte/lab"
)

// repair carries out orders to repair: a shell on every console of the machine until somebody leaves it, or the base written again
// and nothing else. Then the machine restarts. The errors are those of boot.
func (s *session) repair(ctx context.Context, o lab.Orders) error {
	w := &work{session: s, orders: o}
	s.say("this is %s; boot %d: repair; nothing is written unless you ask for it", o.Machine, o.Boot)
	err := group{w.pulse, func(ctx context.Context) error {
		var err error
		if o.Reflash {
			err = w.reflash(ctx)
		} else {
			err = w.shells(ctx)
		}
		if err == nil {
			err = w.reach(ctx, 0, lab.Report{Rung: lab.RungHandover})
		}
		if err != nil {
			return err
		}
		return errDone
	}}.Run(ctx)
	if err == nil {
		s.say("boot %d: the repair is over, %s restarts", o.Boot, o.Machine)
		return s.Handover(ctx, o)
	}
	return w.fail(ctx, err)
}

// reflash makes the first layer on the disk what it was laid as. No other byte of the disk changes but in the partition table, which
// is laid as it was, and in carte's own end of the disk.
func (w *work) reflash(ctx context.Context) (err error) {
	o := w.orders
	if len(o.Writes) == 0 {
		return fmt.Errorf("carte knows of no base on a disk of this machine that it may write; carte machine show %s tells which disks are armed: %w", o.Machine, lab.ErrRefused)
	}
	if err := w.reach(ctx, 0, lab.Report{Rung: lab.RungProbe}); err != nil {
		return err
	}
	parts, err := w.parts(ctx)
	if err != nil {
		return err
	}
	f := &flash{counts: &w.counts, teller: w, source: w.client, name: "disk " + o.Disk.String(), pause: w.client.pause, parts: parts[:1]}
	if f.disk, err = w.OpenDisk(o.Disk); err != nil {
		return err
	}
	defer func() {
		if e := f.disk.Close(); e != nil && err == nil {
			err = fmt.Errorf("close disk %s: %w", o.Disk, e)
		}
	}()
	if f.disk.Size() != o.Disk.Bytes {
		return fmt.Errorf("disk %s has %d bytes and should have %d; it is not the one that was armed: %w", o.Disk, f.disk.Size(), o.Disk.Bytes, lab.ErrRefused)
	}
	if err := w.lay(ctx, f); err != nil {
		return err
	}
	m := w.moved()
	w.say("the base %s is proven: %s written, %s read; what lies over it was not touched", o.Writes[0].Ref, lab.Bytes(m.Written), lab.Bytes(m.Read))
	return nil
}

// shells opens a shell on every console. One that is left ends all.
func (w *work) shells(ctx context.Context) error {
	if w.Terminals == nil {
		return fmt.Errorf("nobody can type on this machine: %w", lab.ErrInvalid)
	}
	all, err := w.Terminals()
	if err != nil {
		return err
	}
	sh := &repairShell{work: w, dir: "/"}
	defer sh.unmount()
	if err := sh.mount(); err != nil {
		w.say("the machine image is not mounted: %v", err)
	}
	run := group{func(ctx context.Context) error { // a read ends only when its console is closed
		<-ctx.Done()
		for _, t := range all {
			t.Close()
		}
		return context.Cause(ctx)
	}}
	for _, t := range all {
		run = append(run, func(ctx context.Context) error { return sh.serve(ctx, t) })
	}
	return run.Run(ctx)
}

// errLeft ends a shell, and with it the repair.
var errLeft = errors.New("left")

// serve reads commands from a console, line by line, until one leaves. A console that ends or breaks is no end of the others.
func (sh *repairShell) serve(ctx context.Context, t io.ReadWriter) error {
	fmt.Fprintf(t, "\ncarte repair on %s. help says what there is; reboot ends it.\n", sh.orders.Machine)
	in := bufio.NewScanner(t)
	for {
		fmt.Fprintf(t, "carte-repair# ")
		if !in.Scan() {
			<-ctx.Done()
			return context.Cause(ctx)
		}
		sh.one.Lock() // two people at two consoles take turns
		err := sh.do(ctx, t, in.Text())
		sh.one.Unlock()
		switch {
		case errors.Is(err, errLeft):
			return errDone
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, new(*revoked)) || errors.Is(err, lab.ErrDenied):
			return err
		case err != nil:
			fmt.Fprintf(t, "%s\n", plainly(err))
		}
	}
}

// do carries out one line.
func (sh *repairShell) do(ctx context.Context, out io.Writer, line string) error {
	words := strings.Fields(lab.Clean(line))
	if len(words) == 0 {
		return nil
	}
	for _, c := range repairCommands() {
		if c.name == words[0] {
			return c.run(sh, ctx, out, words[1:])
		}
	}
	return fmt.Errorf("%q is no command here; help says what there is: %w", words[0], lab.ErrInvalid)
}
