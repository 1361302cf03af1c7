package lab

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// What a shim says and is told: the second life of the agent, beside the user's system. It has the right of the agent
// that it was, or, where the machine restarted in between, that of a claim of its own.

// shimSilence is how many times agentSilence a shim may say nothing before its system counts as lost.
const shimSilence = 2 * agentSilence

// Prepared says that the agent puts the system together before the machine is its: with the rung prepare.
func (s Start) Prepared() bool { return s == StartPivot || s == StartKexec || s == StartNetboot }

// composed says that a tree is put together on the machine, and that a shim may live beside it.
func (p Plan) composed() bool {
	return p.Form == FormTree && p.Capture == nil && p.Repair == nil && p.Start != StartLay
}

// compose says how the agent puts the plan's tree together; where its changes go depends on the disk.
func (p Plan) compose() Compose {
	c := Compose{Files: p.Files, Params: p.Params}
	for _, a := range p.Agreed {
		if a.Given {
			c.Given = append(c.Given, a.Clause)
			if a.Need == Required {
				c.Must = append(c.Must, a.Clause)
			}
		}
	}
	return c
}

// runOrders are for a shim that claims.
func (d *draft) runOrders(b Boot, o Orders) Orders {
	o.Do, o.Boot, o.Stack, o.Disk, o.Form, o.Start = DoRun, b.ID, b.Plan.Stack, b.Disk, b.Plan.Form, b.Plan.Start
	o.Writes, o.Compose = b.Plan.writes(), b.Plan.compose()
	if d.Machines[b.Machine].proven(b) { // all is there
		for i := range o.Writes {
			o.Writes[i].Lazy = false
		}
	}
	return o
}

// shimReport takes what a shim says. Its first word proves that the user's system runs.
func (d *draft) shimReport(m Machine, r Report) (Reply, error) {
	b, ok := d.Boots[r.Boot]
	if !ok || b.Machine != m.ID || m.Ticket.Boot != b.ID || !b.Plan.composed() {
		return Reply{}, fmt.Errorf("%s does not run boot %d: %w", m.Label(), r.Boot, ErrDenied)
	}
	if r.Proven {
		d.whole(m, b)
		return Reply{}, nil
	}
	if b.State == Handover && r.Error != "" { // in its name: the system was not started
		b.climb(RungHandover, d.at)
		d.replaced(m, b)
		d.move(b, Failed, Clean(r.Error))
		return Reply{}, nil
	}
	if b.State == Handover {
		b.climb(RungHandover, d.at)
		b.climb(RungRun, d.at)
		b = d.move(b, Running, "")
		d.replaced(m, b)
		if b.Plan.Until == RungRun {
			b = d.move(b, Done, "")
		}
	}
	if b.State == Running {
		for _, line := range r.Lines {
			if s, ok, err := ParseSaying(Clean(line)); ok && err == nil {
				if err := d.hear(m.ID, s); err != nil {
					d.fact(m.ID, b.ID, "not understood: %v", err)
				}
			}
		}
	}
	b = d.Boots[b.ID]
	switch {
	case b.State.Final():
		if next, busy := d.Active(m.ID); busy && next.State == Starting && next.ID != b.ID {
			return Reply{Orders: &Orders{Do: DoLocal, Machine: m.Label(), Why: fmt.Sprintf("boot %d is next", next.ID)}}, nil
		}
		if b.State == Done {
			return Reply{}, nil // its system may stay until somebody needs the machine
		}
		return Reply{Revoke: "the boot is over: " + or(b.Reason, string(b.State))}, nil
	case b.State != Running:
		return Reply{}, fmt.Errorf("boot %d is %s: %w", b.ID, b.State, ErrDenied)
	case r.Revoked:
		d.revoke(b, or(b.Revoke, "the shim stopped"))
	case r.Error != "":
		d.move(b, Failed, Clean(r.Error))
	case b.Revoke != "":
		return Reply{Revoke: b.Revoke}, nil
	}
	return Reply{}, nil
}

// replaced notes, when something of a boot's own kernel was heard, that its machine can replace its kernel.
func (d *draft) replaced(m Machine, b Boot) {
	if b.Plan.Start == StartKexec && m.Kexec.Proven.IsZero() {
		m.Kexec = KexecRecord{Proven: d.at}
		d.put(m)
		d.fact(m.ID, b.ID, "%s can replace its kernel (kexec)", m.Label())
	}
}

// whole notes that what a boot's lazy layers lacked is on the disk, and was read back. Who says so says nothing of the
// system that runs.
func (d *draft) whole(m Machine, b Boot) {
	i := slices.IndexFunc(m.Holds, func(h Holding) bool { return h.Is(b.Disk) })
	if i < 0 || m.Holds[i].Dirty || m.Holds[i].Absent == 0 {
		return
	}
	h := m.Holds[i]
	d.fact(m.ID, b.ID, "boot %d: %s of lazy layers have arrived, the disk is proven", b.ID, Bytes(h.Absent))
	h.Absent, h.At = 0, d.at
	m.hold(h)
	d.put(m)
}

// A Result is one file that a boot left in /carte/out and that was taken home.
type Result struct {
	Path  string `json:"path"` // below /carte/out
	Bytes int64  `json:"bytes"`
	Sum   string `json:"blake3"` // of its bytes, hex
}

// maxResults is the most files that one boot takes home.
const maxResults = 10000

// runsOn says that the boot's system runs, or may: one that is done with its first sign of life, or by a word on its console,
// goes on until its machine is given something else, and the results that it leaves then are its boot's still. Images it writes
// back no more: they may be another machine's by now.
func (b Boot) runsOn() bool { return b.State == Running || b.State == Done && b.Plan.composed() }

// Running returns the boot for which a shim's key gives the right to send: the last that its machine was given, while its system
// may run.
func (l *Lab) Running(ctx context.Context, key string) (Boot, error) {
	s, m, err := l.keyed(ctx, key)
	if err != nil {
		return Boot{}, err
	}
	b, ok := s.Boots[m.Ticket.Boot]
	if !ok || !b.runsOn() {
		return Boot{}, fmt.Errorf("%s runs no boot's system: %w", m.Label(), ErrDenied)
	}
	return b, nil
}

// Collected notes what a boot has brought home; the files are on the server's disk.
func (l *Lab) Collected(ctx context.Context, boot int64, all []Result) error {
	_, err := l.do(ctx, func(d *draft) error {
		b, err := d.boot(boot)
		switch {
		case err != nil:
			return err
		case len(all) > maxResults:
			return fmt.Errorf("boot %d left %d files in %s, and %d are the most: %w", boot, len(all), OutPlace, maxResults, ErrRefused)
		case !b.Plan.Gives(Results):
			return fmt.Errorf("boot %d takes no results home (clause %q): %w", boot, Results, ErrRefused)
		}
		b.Results, b.OutTaken, b.OutGone = slices.Clone(all), time.Time{}, time.Time{} // others, of which nobody has said anything
		d.put(b)
		d.fact(b.Machine, b.ID, "boot %d: %d results", b.ID, len(all))
		return nil
	})
	return err
}

// MayWriteBack says whether a running boot may make what it changed in an image its next version, and returns the version
// that it changed. A refusal names the clause.
func (s Snapshot) MayWriteBack(b Boot, image string) (PlanLayer, error) {
	i := slices.IndexFunc(b.Plan.Layers, func(l PlanLayer) bool { return l.Ref.Name == image })
	if i < 0 {
		return PlanLayer{}, fmt.Errorf("image %q is not in the plan of boot %d: %w", image, b.ID, ErrDenied)
	}
	l := b.Plan.Layers[i]
	k, err := s.KindOf(l.Kind)
	if err != nil {
		return l, err
	}
	switch {
	case l.Back:
		return l, nil
	case k.WrittenBack == "request":
		return l, k.broken(ClauseUpdates, "nobody asked for an update of %s; a stack that keeps it asks: keep = [%q]", l.Ref, image)
	}
	if k.WrittenBack == "always" || k.WrittenBack == "changed" {
		return l, k.broken(ClauseWritten, "%s lies over the root, where its changes are not told from the system's own; files with a place of their own are written back: --place DIR", l.Ref)
	}
	return l, k.broken(ClauseWritten, "%s is not written back (%s)", l.Ref, k.WrittenBack)
}
