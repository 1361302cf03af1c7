package lab

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// agentSilence is how long an agent may say nothing before its attempt counts as lost. Agents report every second and
// retry for as long as the server is away, so the time begins anew when the server starts.
const agentSilence = 60 * time.Second

// settle adds to a decision what follows from it by itself: boots that are due start, boots that are overdue end.
func settle(d *draft) {
	for _, b := range d.SortedBoots() {
		switch {
		case b.State.Final():
		case b.State == Queued:
			if why := d.died(b.Plan); why != "" && b.Plan.Capture == nil {
				d.revoke(b, why+" while the boot waited")
			}
		case b.Revoke != "":
			if d.at.Sub(b.Since) > RevokeGrace {
				d.revoke(b, b.Revoke+"; the agent did not answer in time and the machine was switched off")
			}
		default:
			d.overdue(b)
		}
	}
	d.expire()
	for _, m := range d.SortedMachines() {
		if m.Standing != Adopted || m.Parked != "" {
			continue
		}
		if _, busy := d.Active(m.ID); busy {
			continue
		}
		if q := d.QueueOf(m.ID); len(q) > 0 {
			d.start(q[0], true)
		}
	}
}

// start begins a boot's next attempt. Where an idle agent is there already it gets the orders with its next report; else
// the machine is switched on, or off and on again when power is true.
func (d *draft) start(b Boot, power bool) Boot {
	b.Attempt, b.Begun = b.Attempt+1, d.at
	b = d.move(b, Starting, "")
	live := d.live(b.Machine)
	live.Progress, live.Moved, live.Loaded, live.Started = Progress{}, Moved{}, false, false
	waiting := live.Agent && d.at.Sub(live.Seen) < agentSilence
	if power && !waiting {
		live.Order = "cycle"
		if live.Power == "off" {
			live.Order = "on"
		}
		if d.Machines[b.Machine].Power.Driver == "manual" {
			live.Order, live.Note = "", "turn it on, or restart it, with network boot first in its firmware's order"
		}
	}
	d.put(live)
	return b
}

// overdue ends a boot that has stood on its rung for longer than the ladder allows.
func (d *draft) overdue(b Boot) {
	m, live := d.Machines[b.Machine], d.Live[b.Machine]
	since := b.Since
	if n := len(b.Climbs); n > 0 && b.Climbs[n-1].At.After(since) {
		since = b.Climbs[n-1].At
	}
	stood := d.at.Sub(since)
	switch b.State {
	case Working:
		if silent := d.at.Sub(later(live.Seen, b.Since)); silent > agentSilence {
			d.strike(b, fmt.Sprintf("the agent has been silent for %s on the rung %s", silent.Round(time.Second), b.Rung()))
		}
	case Running:
		if silent := d.at.Sub(later(live.Seen, b.Since)); b.Plan.Gives(Heartbeat) && live.Shim && silent > shimSilence {
			d.strike(b, fmt.Sprintf("its system has been silent for %s", silent.Round(time.Second)))
		}
	case Handover:
		run, _ := StepOf(RungRun)
		if b.Plan.Start == StartDisk && b.Rung() == RungHandover && stood > run.Limit {
			d.voidTicket(m.ID)
			d.move(b, Failed, fmt.Sprintf("it was started from its disk and showed no login prompt on its serial console within %s; a system that has none is booted with a stack made --until handover", run.Limit))
			return
		}
		fallthrough
	case Starting:
		i := 0
		if r := b.Rung(); r != "" {
			i = r.index() + 1
		}
		for i < len(Ladder)-1 && b.State == Starting && (Ladder[i].Rung == RungTFTP || Ladder[i].Rung == RungDHCP && m.Virtual != nil) {
			i++ // not every way of booting has these
		}
		if b.State == Handover { // an agent that had nothing to write skips rungs
			i = max(i, RungHandover.index())
		}
		step := Ladder[i]
		if said := live.Said.of(b); said != "" {
			step.Cause = saidWords(said)
		}
		if b.State == Handover && b.Plan.Start == StartKexec && stood > step.Limit {
			b = d.kexecFailed(m, b, fmt.Sprintf("its system showed no sign of life within %s", step.Limit))
		}
		if step.Limit > 0 && stood > step.Limit && !(i == 0 && m.Power.Driver == "manual") {
			d.strike(b, fmt.Sprintf("it did not reach the rung %s within %s: %s", step.Rung, step.Limit, step.Cause))
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// restarted settles the lab after a stop of the server. Virtual machines died with it, so their boots go back to the
// queue without a strike. Real machines went on: their agents retry, and they get their time anew.
func restarted(d *draft) error {
	for _, b := range d.SortedBoots() {
		if b.State.Final() || b.State == Queued {
			continue
		}
		m := d.Machines[b.Machine]
		live := d.live(m.ID)
		live.Seen = d.at
		if m.Virtual == nil {
			b.Since = d.at
			d.put(b)
		}
		switch {
		case m.Virtual != nil && b.Revoke != "":
			d.voidTicket(m.ID)
			d.move(b, Revoked, b.Revoke)
		case m.Virtual != nil:
			d.voidTicket(m.ID)
			d.requeue(b, "the server was restarted, and its virtual machines with it")
		case b.State == Starting && b.Rung() == "" && m.Power.Driver != "manual":
			live.Order = "cycle"
			d.put(live)
		default:
			live.Agent = b.State == Working
			d.put(live)
		}
	}
	return nil
}

// live returns what is known of a machine just now, for changing.
func (d *draft) live(machine int64) Live {
	l := d.Live[machine]
	l.Machine = machine
	return l
}

// expire removes the bytes of images whose date has come, unless a boot has them: then when it is over. What used them says
// so, because the image's name stays.
func (d *draft) expire() {
	for _, name := range slices.Sorted(maps.Keys(d.Images)) {
		if im := d.Images[name]; !im.Dies.IsZero() && !im.Dies.After(d.at) && !d.busyWith(name) {
			d.die(im)
		}
	}
}

// diesWith removes the bytes of the images that live with a machine.
func (d *draft) diesWith(m Machine) {
	for _, im := range d.ownedBy(m) {
		d.die(im)
	}
}

// die removes all versions of an image whose life is over.
func (d *draft) die(im Image) {
	for _, v := range d.VersionsOf(im.Name) {
		d.put(Gone{TableVersions, v.Ref().String()})
		d.fact(0, 0, "image %s died (clause %q of kind %s)", v.Ref(), ClauseLifetime, im.Kind)
	}
	d.untag(im.Name)
}

// busyWith says that a boot which is not over has the image.
func (s Snapshot) busyWith(image string) bool {
	for _, b := range s.Boots {
		if !b.State.Final() && slices.ContainsFunc(b.Plan.Layers, func(l PlanLayer) bool { return l.Ref.Name == image }) {
			return true
		}
	}
	return false
}
