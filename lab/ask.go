package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// What the netboot servers say to the lab. None of it gives a right: all that a packet can do is show that a machine
// exists and that it climbed a rung.

// maxUnknown is how many strange machines the lab remembers; a flood of made-up addresses stops there.
const maxUnknown = 64

// SeenMachine notes that a card with that address was seen on a rung. A card that is nobody's becomes an unknown machine
// when it asks to boot from the network, and is otherwise not remembered. It returns what the lab knows of the machine.
func (l *Lab) SeenMachine(ctx context.Context, mac MAC, rung Rung, ip string, netboot bool) (m Machine, known bool, err error) {
	_, err = l.do(ctx, func(d *draft) error {
		m, known = d.see(mac, ip, netboot)
		if known {
			d.climbed(m, rung)
		}
		return nil
	})
	return m, known, err
}

// see finds the machine of a card, or remembers a stranger that wants to boot.
func (d *draft) see(mac MAC, ip string, netboot bool) (Machine, bool) {
	m, ok := d.owner(mac)
	if !ok {
		strangers := 0
		for _, x := range d.Machines {
			if x.Standing == Unknown {
				strangers++
			}
		}
		if !netboot || strangers >= maxUnknown {
			return Machine{}, false
		}
		m = Machine{ID: d.LastMachine + 1, Standing: Unknown, MACs: []MAC{mac}, Power: Power{Driver: "manual"}, Since: d.at, Arms: []Arm{}, Holds: []Holding{}}
		d.put(m)
		d.fact(m.ID, 0, "an unknown machine %s asked for a boot", mac)
	}
	live := d.live(m.ID)
	live.Seen = d.at
	if ip != "" {
		live.IP = ip
	}
	if netboot {
		live.Asked++
	}
	d.put(live)
	return m, true
}

// climbed notes a rung for the boot that the machine is starting.
func (d *draft) climbed(m Machine, r Rung) {
	b, ok := d.Active(m.ID)
	if !ok || b.State != Starting {
		return
	}
	was := len(b.Climbs)
	if b.climb(r, d.at); len(b.Climbs) > was {
		d.put(b)
	}
}

// maxSilent is how often an agent is started on a machine that has nothing to boot before the machine is parked.
const maxSilent = 6

// What a machine that asks for its boot script gets.
const (
	ScriptAgent = "agent" // our kernel and agent
	ScriptHold  = "hold"  // wait and ask again
	ScriptLocal = "local" // the machine's own disk

	ScriptSystem = "system" // the kernel of the boot's plan: with its second stage, or, for StartMemory, alone
)

// A Script is what a machine is to boot.
type Script struct {
	Do      string
	Machine Machine
	Boot    int64
	Token   string // for ScriptAgent, and for a ScriptSystem whose second stage has a shim
	Plan    Plan   // for ScriptSystem
	Why     string // in words, for the machine's own screen
}

// Script decides what a machine boots, from what is written down and nothing else.
func (l *Lab) Script(ctx context.Context, mac MAC, ip string) (s Script, err error) {
	_, err = l.do(ctx, func(d *draft) error {
		m, ok := d.see(mac, ip, true)
		if !ok {
			s = Script{Do: ScriptHold, Why: "too many unknown machines; ignore or adopt some"}
			return nil
		}
		s = d.script(m)
		s.Machine = d.Machines[m.ID]
		if s.Do == ScriptAgent || s.Do == ScriptSystem && s.Plan.composed() {
			s.Token = token(l.secret, m.ID, d.issue(m.ID, s.Boot))
			s.Machine = d.Machines[m.ID]
		}
		return nil
	})
	return s, err
}

// Peek is what Script would say now. Nothing follows from it, and it carries no token.
func (l *Lab) Peek(mac MAC) Script {
	l.mu.Lock()
	d := &draft{Snapshot: l.state, at: l.now().UTC().Truncate(time.Millisecond)}
	l.mu.Unlock()
	m, ok := d.owner(mac)
	if !ok {
		return Script{Do: ScriptHold}
	}
	return d.script(m)
}

func (d *draft) script(m Machine) Script {
	switch {
	case m.Standing == Unknown:
		return Script{Do: ScriptHold, Why: fmt.Sprintf("unknown machine, code %s; adopt it: carte machine adopt %s --name NAME", m.Code(), m.MACs[0])}
	case m.Standing == Ignored:
		return Script{Do: ScriptLocal, Why: "this machine is ignored"}
	}
	d.climbed(m, RungScript)
	if b, busy := d.Active(m.ID); busy {
		if s, ok := d.scriptOf(m, b); ok {
			return s
		}
	}
	m = d.Machines[m.ID]
	if m.Parked != "" {
		return Script{Do: ScriptLocal, Why: "parked: " + m.Parked}
	}
	if q := d.QueueOf(m.ID); len(q) > 0 {
		b := d.start(q[0], false)
		b.climb(RungScript, d.at)
		d.put(b)
		return first(b)
	}
	if m.Warm || m.Inventory == nil {
		live := d.live(m.ID)
		if live.Silent++; live.Silent > maxSilent { // a kernel that dies here would be started for ever
			live.Silent = 0
			m.Parked = fmt.Sprintf("the agent was started %d times and did not say hello; look at the machine's own screen", maxSilent)
			d.put(live, m)
			d.fact(m.ID, 0, "%s is parked: %s", m.Label(), m.Parked)
			return Script{Do: ScriptLocal, Why: "parked: " + m.Parked}
		}
		d.put(live)
		return Script{Do: ScriptAgent, Why: "nothing is queued; the agent looks at the machine and waits"}
	}
	return Script{Do: ScriptLocal, Why: "nothing is queued"}
}

// scriptOf says what a machine is given for a boot that begins or goes on; a boot that its restart has ended has a strike.
func (d *draft) scriptOf(m Machine, b Boot) (Script, bool) {
	switch {
	case b.State == Starting && m.Ticket.Boot == b.ID && m.Ticket.Key != "":
		d.strike(b, "the machine restarted before its agent had orders")
	case b.State == Starting:
		return first(b), true
	case b.State == Working:
		d.strike(b, fmt.Sprintf("the machine restarted by itself on the rung %s", b.Rung()))
	case b.State == Handover, b.State == Running:
		if s, ok := d.goesOn(m, b); ok {
			return s, true
		}
		why := "the machine restarted while its system ran"
		if d.Live[m.ID].Loaded && b.State == Handover {
			why = "its kernel was loaded, and the machine restarted without a sign of life of it"
		}
		d.strike(b, why)
	}
	return Script{}, false
}

// first is what a boot begins with: its kernel, where that is all, else the agent.
func first(b Boot) Script {
	if b.Plan.Start == StartMemory {
		return memory(b)
	}
	return Script{Do: ScriptAgent, Boot: b.ID, Why: b.Plan.Stack}
}

// goesOn says what a machine that restarts after the handover is given, where that is how its system starts.
func (d *draft) goesOn(m Machine, b Boot) (Script, bool) {
	if b.Plan.Start == StartKexec && b.State == Handover {
		b = d.kexecFailed(m, b, "the machine restarted instead")
	}
	switch {
	case b.Plan.Start == StartDisk:
		return d.local(m, b), true
	case b.State == Handover && b.Plan.Start == StartNetboot && !d.Live[m.ID].Loaded:
		b.climb(RungHandover, d.at)
		d.put(b)
		return Script{Do: ScriptSystem, Boot: b.ID, Plan: b.Plan, Why: b.Plan.Stack + " starts with its own kernel"}, true
	}
	return Script{}, false
}

// memory gives a machine the kernel that it runs in memory: no agent comes before it. The boot stays where it is until the
// machine has that kernel; see Loaded.
func memory(b Boot) Script {
	return Script{Do: ScriptSystem, Boot: b.ID, Plan: b.Plan, Why: b.Plan.Stack + " starts in memory"}
}

// kexecFailed remembers that a machine could not replace its kernel. Where the lab chose that start, it takes the next.
func (d *draft) kexecFailed(m Machine, b Boot, why string) Boot {
	m = d.Machines[m.ID]
	m.Kexec = KexecRecord{Failed: why}
	d.put(m)
	d.fact(m.ID, b.ID, "%s cannot replace its kernel (kexec): %s", m.Label(), why)
	b.NoKexec = why
	b.Plan.chooseStart(m)
	d.put(b)
	return b
}

// local sends a machine whose disk is proven to that disk. Where carte reads the console the system's own words end the
// boot; where it cannot, this is the last that it sees.
func (d *draft) local(m Machine, b Boot) Script {
	if b.State == Handover {
		b.climb(RungHandover, d.at)
		d.put(b)
		if why := blind(m, b.Plan); why != "" {
			d.unseen(b, "it was sent to its disk; "+why)
		}
	}
	return Script{Do: ScriptLocal, Boot: b.ID, Why: b.Plan.Stack + " starts from the disk"}
}

// blind says why the lab cannot see the user's system run; empty where it can.
func blind(m Machine, p Plan) string {
	switch {
	case p.Until == RungHandover:
		return "its stack asks for no more"
	case m.Virtual == nil && !(p.composed() && p.Gives(Heartbeat)): // a shim tells
		return "carte does not read its console"
	}
	return ""
}

// unseen ends a boot whose system was started where carte has no eyes. The rung run is not written down: nobody saw it.
func (d *draft) unseen(b Boot, why string) {
	d.move(d.move(b, Running, ""), Done, why)
}

// A Pool is what addresses the DHCP server may give.
type Pool struct {
	First, Last netip.Addr
	Lease       time.Duration
	Not         func(netip.Addr) bool // addresses that something else has; nil: none
}

func (p Pool) has(ip netip.Addr) bool {
	return !ip.Less(p.First) && !p.Last.Less(ip) && (p.Not == nil || !p.Not(ip))
}

// Lease gives a card its address: the one it had, else the first that is free, else the one whose lease ended longest
// ago. Leases are written down before they are given.
func (l *Lab) Lease(ctx context.Context, mac MAC, p Pool) (a Address, err error) {
	_, err = l.do(ctx, func(d *draft) error {
		a, err = d.lease(mac, p)
		return err
	})
	return a, err
}

func (d *draft) lease(mac MAC, p Pool) (Address, error) {
	taken := map[string]Address{}
	for _, x := range d.Addresses {
		taken[x.IP] = x
	}
	until := d.at.Add(p.Lease)
	if have, ok := d.Addresses[mac]; ok {
		ip, err := netip.ParseAddr(have.IP)
		if err == nil && p.has(ip) {
			if have.Until.Sub(d.at) < p.Lease/2 {
				have.Until = until
				d.put(have)
			}
			return have, nil
		}
	}
	var oldest *Address
	for ip := p.First; ip.IsValid() && !p.Last.Less(ip); ip = ip.Next() {
		x, used := taken[ip.String()]
		if !p.has(ip) {
			continue
		}
		if !used {
			a := Address{mac, ip.String(), until}
			d.put(a)
			return a, nil
		}
		if x.Until.Before(d.at) && (oldest == nil || x.Until.Before(oldest.Until)) {
			oldest = &x
		}
	}
	if oldest == nil {
		return Address{}, fmt.Errorf("all %d addresses from %s to %s are lent; widen the pool: %w", len(d.Addresses), p.First, p.Last, ErrBusy)
	}
	d.put(Gone{TableAddresses, string(oldest.MAC)})
	a := Address{mac, oldest.IP, until}
	d.put(a)
	return a, nil
}

// Tell notes the state of one of carte's own services.
func (l *Lab) Tell(ctx context.Context, s Service) error {
	_, err := l.do(ctx, func(d *draft) error {
		if d.Services[s.Name] != s {
			d.put(s)
		}
		return nil
	})
	return err
}

// Powered is what a power driver found or did. Order is the one it carried out, or empty when it only looked.
type Powered struct {
	Machine int64
	Order   string
	State   string // on, off or empty: it cannot tell
	Err     error
}

// Powered notes what a power driver found or did.
func (l *Lab) Powered(ctx context.Context, p Powered) error {
	_, err := l.do(ctx, func(d *draft) error { return d.powered(p) })
	return err
}

// isFinal says that trying again would end the same way: a program or a setting is wrong.
func isFinal(err error) bool {
	return errors.Is(err, ErrInvalid) || errors.Is(err, ErrNotFound) || errors.Is(err, ErrRefused)
}

func (d *draft) powered(p Powered) error {
	m, ok := d.Machines[p.Machine]
	if !ok {
		return nil
	}
	live := d.live(m.ID)
	was := live
	if p.Order != "" && live.Order == p.Order {
		live.Order = ""
	}
	live.Power, live.Note = p.State, ""
	if p.Err != nil {
		live.Note = Clean(p.Err.Error())
	}
	if p.State == "off" {
		live.Agent = false
	}
	if live != was {
		d.put(live)
	}
	b, busy := d.Active(m.ID)
	switch {
	case !busy:
	case p.Err != nil && p.Order != "" && b.State == Starting && m.Power.Driver != "manual" && isFinal(p.Err):
		d.voidTicket(m.ID)
		d.move(b, Failed, "power "+p.Order+": "+live.Note)
	case p.Err != nil && p.Order != "" && b.State == Starting && m.Power.Driver != "manual": // whose error is an instruction
		d.strike(b, "power "+p.Order+": "+live.Note)
	case p.Err == nil && p.Order != "" && p.Order != "off" && b.State == Starting:
		d.climbed(m, RungPower)
	case p.State == "off" && live.Order == "" && slices.Contains([]State{Starting, Working, Handover, Running}, b.State):
		d.strike(b, fmt.Sprintf("the machine went off on the rung %s", or(b.Rung(), RungPower)))
	}
	return nil
}
