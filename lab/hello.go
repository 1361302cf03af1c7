package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Claim takes an agent's first word: it redeems the token, writes down the inventory, and gives orders.
func (l *Lab) Claim(ctx context.Context, c Claim) (o Orders, err error) {
	_, err = l.do(ctx, func(d *draft) error {
		m, err := d.redeem(l.secret, c)
		if err != nil {
			return err
		}
		if c.Inventory.tidy(); c.Inventory.Looked() || m.Inventory == nil {
			c.Inventory.At = d.at
			m.Inventory = &c.Inventory
			m.UUID = or(m.UUID, c.Inventory.UUID)
		}
		d.put(m)
		d.cards(m)
		live := d.live(m.ID)
		live.Seen, live.Agent, live.Note, live.Silent = d.at, true, "", 0
		d.put(live)
		o = d.orders(m.ID)
		return nil
	})
	return o, err
}

// cards makes the machine the owner of all its network cards, so that it is one row whichever it boots from.
func (d *draft) cards(m Machine) {
	macs := slices.Clone(m.MACs)
	for _, nic := range m.Inventory.NICs {
		o, owned := d.owner(nic.MAC)
		if slices.Contains(macs, nic.MAC) {
			continue
		}
		if owned && o.Standing != Unknown {
			d.fact(m.ID, 0, "%s says it has the card %s, which is %s's; it stays there", m.Label(), nic.MAC, o.Label())
			continue
		}
		if owned {
			d.put(Gone{TableMachines, fmt.Sprint(o.ID)})
		}
		macs = append(macs, nic.MAC)
	}
	if len(macs) > len(m.MACs) {
		m = d.Machines[m.ID]
		slices.Sort(macs)
		m.MACs = macs
		d.put(m)
	}
}

// orders tells a claimed agent what to do. It may be asked again: the answer to a repeated claim is the same.
func (d *draft) orders(machine int64) Orders {
	m := d.Machines[machine]
	o := Orders{Do: DoWait, Machine: m.Label()}
	b, busy := d.Active(m.ID)
	idle := m.Ticket.Boot == 0 || d.isOver(m.Ticket)
	switch {
	case !idle && (!busy || m.Ticket.Boot != b.ID):
		o.Do, o.Why = DoStop, "the boot this agent was started for is over"
		return o
	case !busy && d.Boots[m.Ticket.Boot].Plan.Capture != nil && !m.Warm, busy && b.Plan.Start == StartMemory: // which is iPXE's, not an agent's
		o.Do = DoLocal
		live := d.live(m.ID)
		live.Agent = false
		d.put(live)
		return o
	case !busy:
		return o
	}
	if b.State == Starting {
		var err error
		if m, b, err = d.works(m, b); err != nil {
			o.Do, o.Why = DoStop, err.Error()
			return o
		}
	}
	switch {
	case b.Plan.composed() && b.Rung() != "" && (b.State == Handover || b.State == Running):
		return d.runOrders(b, o)
	case b.State != Working:
		o.Do, o.Why = DoStop, fmt.Sprintf("boot %d is %s", b.ID, b.State)
		return o
	case b.Plan.Capture != nil:
		return d.captureOrders(m, b, o)
	case b.Plan.Repair != nil:
		return d.repairOrders(m, b, o)
	}
	return d.bootOrders(m, b, o)
}

// works lets a boot go on when its agent is there, on the disk that it is for; without one, it fails.
func (d *draft) works(m Machine, b Boot) (Machine, Boot, error) {
	b.climb(RungHello, d.at)
	d.put(b)
	var disk Disk
	var err error
	if c := b.Plan.Capture; c != nil {
		disk, err = m.source(m.Inventory.Disks, *c)
	} else if b.Plan.Repair != nil {
		disk, err = d.repairDisk(m, b.Plan)
	} else {
		disk, err = guard(m, m.Inventory.Disks, b.Plan)
		b.Plan.chooseStart(m)
	}
	if err != nil {
		d.voidTicket(m.ID)
		d.move(b, Failed, reason(err))
		return m, b, err
	}
	b.Disk = disk.DiskID
	b = d.move(b, Working, "")
	if live := d.live(m.ID); live.Order != "off" { // it is here: what was to bring it, and what went wrong on the way, is over
		live.Order, live.Note = "", ""
		d.put(live)
	}
	m.Ticket.Boot = b.ID
	d.put(m)
	return m, b, nil
}

// bootOrders are those of a boot that lays its layers.
func (d *draft) bootOrders(m Machine, b Boot, o Orders) Orders {
	o.Do, o.Boot, o.Stack, o.Disk = DoBoot, b.ID, b.Plan.Stack, b.Disk
	o.Form, o.Start, o.Cmdline, o.Grow = b.Plan.Form, b.Plan.Start, b.Plan.Cmdline, b.Plan.Grow
	o.Writes = b.Plan.writes()
	o.Had = d.had(m, b)
	o.Tail, _ = TailFor(b.Disk.Bytes, m.tail(), b.Plan.need()) // the guard has asked: it fits
	if b.Plan.Form == FormTree {
		o.Compose, o.Reset = b.Plan.compose(), b.Plan.Reset
		o.Compose.Scratch = b.Plan.scratch(b.Disk.Bytes, o.Tail)
		o.Compose.Fallback = b.Plan.Auto && m.Kexec.Proven.IsZero()
		if !m.proven(b) {
			o.Reset = ResetAlways
		}
	}
	return o
}

// writes lists where each layer goes.
func (p Plan) writes() (all []Write) {
	at, _ := p.Places()
	for i, l := range p.Layers {
		all = append(all, Write{Ref: l.Ref, Root: l.Root, Offset: at[i], Bytes: l.Bytes, Form: l.Form, Place: l.Place, Back: l.Back, Lazy: p.lazy(l)})
	}
	return all
}

// lazy says whether a layer may arrive while the system runs: there is one, its image offers it, and the boot has it. A
// kernel is needed before there is a system.
func (p Plan) lazy(l PlanLayer) bool {
	return l.Form != FormKernel && p.composed() && slices.ContainsFunc(p.Agreed, func(a Agreed) bool {
		return a.Clause == Lazy && a.Given && slices.Contains(a.By, l.Ref)
	})
}

// proven says that carte has laid every layer of the boot on its disk, where it is to be, and has proven it there since.
func (m Machine) proven(b Boot) bool {
	i := slices.IndexFunc(m.Holds, func(h Holding) bool { return h.Is(b.Disk) })
	if i < 0 || m.Holds[i].Dirty || m.Holds[i].Absent > 0 {
		return false
	}
	h := m.Holds[i]
	for i, w := range b.Plan.writes() {
		if i == 0 && w.Root != h.Root || i > 0 && !slices.Contains(h.Over, Held{w.Ref, w.Root, w.Offset}) {
			return false
		}
	}
	return true
}

// had lists what may be found on the boot's disk of what carte has written there before: versions that still exist.
func (s Snapshot) had(m Machine, b Boot) (all []Write) {
	for _, h := range m.Holds {
		if !h.Is(b.Disk) {
			continue
		}
		for _, ref := range append([]Ref{h.Ref}, h.Was...) {
			v, ok := s.Versions[ref.String()]
			planned := slices.ContainsFunc(b.Plan.Layers, func(l PlanLayer) bool { return l.Root == v.Root })
			if !ok || planned || ref == h.Ref && v.Root != h.Root { // a name may have come back with other bytes
				continue
			}
			all = append(all, Write{Ref: ref, Root: v.Root, Offset: s.Images[v.Image].Form.offset(), Bytes: v.Bytes})
		}
		for _, o := range h.Over {
			if v, ok := s.Versions[o.Ref.String()]; ok && v.Root == o.Root {
				all = append(all, Write{Ref: o.Ref, Root: o.Root, Offset: o.Offset, Bytes: v.Bytes})
			}
		}
	}
	return all
}

// offset is where on a disk an image of that form begins.
func (f Form) offset() int64 {
	if f == FormTree {
		return TreeOffset
	}
	return 0
}

// peers lists the agents that work on an image of the same boot just now, on other machines. One that gives the very
// address that this boot's own agent has is left out: each virtual machine on QEMU's own network is 10.0.2.15, and would
// ask itself.
func (s Snapshot) peers(b Boot) (all []Peer) {
	own := s.Live[b.Machine].Peer
	boots := s.SortedBoots()
	after := slices.IndexFunc(boots, func(o Boot) bool { return o.ID > b.ID })
	if after < 0 {
		after = 0
	}
	for _, o := range append(boots[after:len(boots):len(boots)], boots[:after]...) { // of many, each names others
		live := s.Live[o.Machine]
		if o.Machine == b.Machine || o.State != Working || !live.Agent || live.Peer.Addr == "" || live.Peer.collides(own) {
			continue
		}
		shares := slices.ContainsFunc(o.Plan.Layers, func(l PlanLayer) bool {
			return slices.ContainsFunc(b.Plan.Layers, func(k PlanLayer) bool { return k.Root == l.Root })
		})
		if shares && len(all) < MaxPeers {
			all = append(all, live.Peer)
		}
	}
	return all
}

// reason is an error in words, without the name of its kind at the end.
func reason(err error) string {
	for _, f := range Failings {
		if f.Kind != nil && errors.Is(err, f.Kind) {
			text := err.Error()
			if tail := ": " + f.Kind.Error(); len(text) > len(tail) && text[len(text)-len(tail):] == tail {
				return text[:len(text)-len(tail)]
			}
		}
	}
	return err.Error()
}

// Report takes what an agent says while it works. Progress stays in memory; a new rung, the start and the proof of a
// write, and an end are written down before the reply.
func (l *Lab) Report(ctx context.Context, key string, r Report) (reply Reply, err error) {
	var m Machine
	_, err = l.do(ctx, func(d *draft) error {
		if m, err = d.byKey(key); err != nil {
			return err
		}
		live := d.live(m.ID)
		live.Seen, live.Agent, live.Shim = d.at, !r.Shim, r.Shim
		if !r.Shim {
			live.Progress, live.Moved = r.Progress, r.Moved
		}
		if live.Peer = r.Peer; live.Peer.Addr != "" {
			live.Peer.Machine = m.ID
		}
		d.put(live)
		reply, err = d.report(m, r)
		return err
	})
	if err == nil {
		reply.Wants = l.asks()
		source := "agent"
		if r.Shim {
			source = "run"
		}
		for _, line := range r.Lines {
			l.Log(Line{Machine: m.ID, Source: source, Text: line})
		}
	}
	return reply, err
}

func (d *draft) report(m Machine, r Report) (Reply, error) {
	b, busy := d.Active(m.ID)
	if r.Shim {
		return d.shimReport(m, r)
	}
	if r.Boot == 0 {
		if busy && (b.State == Starting || b.State == Working && m.Ticket.Boot == b.ID) || !busy && d.isOver(m.Ticket) {
			o := d.orders(m.ID)
			return Reply{Orders: &o}, nil
		}
		return Reply{}, nil
	}
	if last, ok := d.Boots[r.Boot]; ok && last.State.Final() && m.Ticket.Boot == r.Boot {
		if last.State == Done && (r.Rung == RungHandover || last.Plan.Capture != nil) {
			return Reply{}, nil // the report that handed over, once more; or one that a capture's end has overtaken
		}
		return Reply{Revoke: "the boot is over: " + or(last.Reason, string(last.State))}, nil
	}
	mine := busy && b.ID == r.Boot
	_, known := StepOf(r.Rung)
	switch {
	case mine && b.State == Handover:
		return Reply{}, nil // the report that handed over, once more
	case !mine || b.State != Working:
		return Reply{}, fmt.Errorf("%s does not work on boot %d: %w", m.Label(), r.Boot, ErrDenied)
	case !known && r.Rung != "":
		return Reply{}, fmt.Errorf("rung %q: %w", r.Rung, ErrInvalid)
	}
	r.Error = Clean(r.Error)
	was, rungs := b.Moved, len(b.Climbs)
	if r.Forecast != (Forecast{}) {
		b.Chosen = r.Forecast
		b.Chosen.Why = Clean(b.Chosen.Why)
	}
	b.Moved = r.Moved
	b.Moved.Total = was.Total
	if r.Rung != "" && !r.Rung.Reached(RungHandover) {
		b.climb(r.Rung, d.at)
	}
	if b.Plan.Capture != nil {
		b.Moved.Total = r.Moved.Total
		if r.Writing || r.Proven || r.Rung.Reached(RungWrite) {
			return Reply{}, fmt.Errorf("boot %d captures, it writes nothing: %w", b.ID, ErrInvalid)
		}
	}
	if (r.Writing || r.Proven) && len(b.Plan.Layers) == 0 {
		return Reply{}, fmt.Errorf("boot %d has nothing that it may write: %w", b.ID, ErrInvalid)
	}
	if r.Writing || r.Proven {
		m.hold(m.written(b, r, d.at))
		d.put(m)
	}
	if r.NoKexec != "" && b.Plan.Start == StartKexec {
		b = d.kexecFailed(m, b, Clean(r.NoKexec))
		m = d.Machines[m.ID]
	}
	if len(b.Climbs) > rungs || r.Forecast != (Forecast{}) || r.Writing || r.Proven || r.Error != "" || r.Revoked || r.Rung == RungHandover {
		d.put(b)
	}
	switch {
	case r.Revoked:
		d.revoke(b, or(b.Revoke, "the agent stopped"))
	case r.Error != "" && r.Fatal:
		d.voidTicket(m.ID)
		d.move(b, Failed, r.Error)
	case r.Error != "":
		d.strike(b, r.Error)
	case b.Revoke != "":
		return Reply{Revoke: b.Revoke}, nil
	case r.Rung == RungHandover:
		return Reply{}, d.handover(m, b)
	}
	return Reply{Peers: d.peers(b)}, nil
}

// written is what the machine's disk holds, by what the agent says of its writing.
func (m Machine) written(b Boot, r Report, at time.Time) Holding {
	l := b.Plan.Layers[0]
	h := Holding{DiskID: b.Disk, Root: l.Root, Ref: l.Ref, Dirty: !r.Proven, At: at, Absent: max(r.Absent, 0)}
	for _, w := range b.Plan.writes()[1:] {
		h.Over = append(h.Over, Held{w.Ref, w.Root, w.Offset})
	}
	if b.Plan.Repair != nil {
		h = m.repaired(h)
	}
	return h
}

// handover takes the agent's word that the disk is proven. A system that the agent starts itself is handed over by that;
// one that the firmware starts, when the machine next asks for its script.
func (d *draft) handover(m Machine, b Boot) error {
	if b.Plan.Repair != nil {
		live := d.live(m.ID)
		live.Agent, live.Progress = false, Progress{}
		d.put(live)
		b.climb(RungHandover, d.at)
		d.move(b, Done, "the repair is over")
		return nil
	}
	if i := slices.IndexFunc(m.Holds, func(h Holding) bool { return h.Is(b.Disk) }); i < 0 || m.Holds[i].Dirty {
		return fmt.Errorf("boot %d: %s was not proven, it is not started: %w", b.ID, b.Disk, ErrRefused)
	}
	live := d.live(m.ID)
	live.Agent, live.Progress = b.Plan.Start == StartLay, Progress{}
	d.put(live)
	if b.Plan.Start == StartLay {
		b.climb(RungHandover, d.at)
		d.move(b, Done, "laid and proven")
		return nil
	}
	itself := b.Plan.Start == StartPivot || b.Plan.Start == StartKexec
	if itself {
		b.climb(RungHandover, d.at)
	}
	b = d.move(b, Handover, "")
	if why := blind(m, b.Plan); why != "" && itself {
		d.unseen(b, "its system was started; "+why)
	}
	return nil
}
