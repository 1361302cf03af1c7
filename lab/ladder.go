package lab

import (
	"slices"
	"time"
)

// A Rung is a step of the ladder from power-on to result.
type Rung string

const (
	RungPower    Rung = "power"
	RungDHCP     Rung = "dhcp"
	RungTFTP     Rung = "tftp"
	RungScript   Rung = "script"
	RungKernel   Rung = "kernel"
	RungInitrd   Rung = "initrd"
	RungHello    Rung = "hello"
	RungProbe    Rung = "probe"
	RungHash     Rung = "hash"
	RungFetch    Rung = "fetch"
	RungWrite    Rung = "write"
	RungVerify   Rung = "verify"
	RungPrepare  Rung = "prepare"
	RungHandover Rung = "handover"
	RungRun      Rung = "run"
	RungCollect  Rung = "collect"
)

// A Step is what the lab knows about a rung: how long a boot may take to climb it from the one before, and, for the one
// who stands in front of a machine that does not, the likely cause and the fix.
type Step struct {
	Rung  Rung          `json:"rung"`
	Who   string        `json:"who"`
	Limit time.Duration `json:"-"`
	Cause string        `json:"cause"`
	Fix   string        `json:"fix"`
}

// Ladder is the order in which a boot climbs. Limits are generous: a server's firmware tests memory for minutes.
var Ladder = []Step{
	{RungPower, "power", 2 * time.Minute, "the machine was not switched on", "check its power driver: carte machine show; or press its button"},
	{RungDHCP, "dhcp", 6 * time.Minute, "no boot request came: network boot is off or late in the firmware's order, the cable is out, or the switch port waits (spanning tree)", "enable network boot, put it first, turn on portfast"},
	{RungTFTP, "tftp", 2 * time.Minute, "it got an address and no boot program: a firewall drops UDP 69, or another DHCP server answered first", "open UDP 69 and 4011; carte doctor"},
	{RungScript, "script", 2 * time.Minute, "iPXE started and did not ask for its script: its driver for this card failed, or a firewall drops the HTTP port", "try another card or port; carte doctor"},
	{RungKernel, "kernel", 3 * time.Minute, "the script was fetched and the kernel was not: the wire or the firmware's memory", "look at the machine's own screen"},
	{RungInitrd, "initrd", 3 * time.Minute, "the kernel was fetched and the agent was not", "look at the machine's own screen"},
	{RungHello, "agent", 4 * time.Minute, "the kernel started and the agent did not say hello: no driver for this network card, or too little memory", "give another agent kernel; 512 MB of memory are enough"},
	{RungProbe, "agent", 2 * time.Minute, "the disks were not found or not allowed", "carte machine show lists its disks, carte machine arm allows one"},
	{RungHash, "agent", 0, "reading the disk", "a failing disk reads slowly: look at its SMART data"},
	{RungFetch, "agent", 0, "fetching chunks", "the wire is slow: check the link's speed"},
	{RungWrite, "agent", 0, "writing", "a failing disk writes slowly: look at its SMART data"},
	{RungVerify, "agent", 0, "reading back", "a failing disk reads slowly: look at its SMART data"},
	{RungPrepare, "agent", 0, "putting the start together: the layers, and a second stage for a kernel of the stack's own", "carte log tells what it was at"},
	{RungHandover, "agent", 4 * time.Minute, "the agent did not hand over", "look at the machine's own screen"},
	{RungRun, "user's system", 10 * time.Minute, "the user's system showed no sign of life", "look at the console: carte log"},
	{RungCollect, "user's system", 0, "the user's system runs", ""},
}

// StepOf returns the row of a rung; ok is false for a word that is none.
func StepOf(r Rung) (s Step, ok bool) {
	i := r.index()
	if i < 0 {
		return Step{}, false
	}
	return Ladder[i], true
}

func (r Rung) index() int {
	return slices.IndexFunc(Ladder, func(s Step) bool { return s.Rung == r })
}

// Reached reports whether r lies at or beyond o.
func (r Rung) Reached(o Rung) bool { return r.index() >= o.index() }

// A Climb is a rung that a boot reached, and when. Inferred: nobody saw it, but a later rung proves it.
type Climb struct {
	Rung     Rung      `json:"rung"`
	At       time.Time `json:"at"`
	Attempt  int       `json:"attempt"`
	Inferred bool      `json:"inferred,omitempty"`
}

// inferable rungs leave no trace on some ways of booting: a virtual machine on QEMU's own network gets its address from
// QEMU, an iPXE in ROM needs no TFTP.
var inferable = []Rung{RungPower, RungDHCP}

// IsWork tells the two sorts of rungs apart. Up to hello a rung is an event that the boot waits for, so its time ends when
// it is reached; from probe on it is work, so its time begins then.
func (r Rung) IsWork() bool { return r.Reached(RungProbe) }

// Climbed returns what the boot's current attempt has climbed.
func (b Boot) Climbed() []Climb {
	i := slices.IndexFunc(b.Climbs, func(c Climb) bool { return c.Attempt == b.Attempt })
	if i < 0 {
		return nil
	}
	return b.Climbs[i:]
}

// Flashing is how long the boot's current attempt has compared, written and proven its disk by now, or did so in the end:
// over says which.
func (b Boot) Flashing(now time.Time) (sum time.Duration, over bool) {
	if !b.Ended.IsZero() {
		now = b.Ended
	}
	c := b.Climbed()
	for i, x := range c {
		if x.Rung.Reached(RungHash) && !x.Rung.Reached(RungPrepare) {
			sum += Took(c, i, b.Begun, now)
		}
	}
	return sum, b.State.Final() || b.Rung().Reached(RungPrepare)
}

// OnIt says that the i-th of the boot's climbs is the rung that it works on still.
func (b Boot) OnIt(i int) bool {
	return i == len(b.Climbs)-1 && !b.State.Final() && b.State != Queued && b.Climbs[i].Attempt == b.Attempt && b.Climbs[i].Rung.IsWork()
}

// Took is how long the i-th of one attempt's climbs lasted; the attempt went from begun to end. A rung that nobody saw took
// no time: the next one that was seen has it all. The times of all rungs add up to the time of the attempt.
func Took(c []Climb, i int, begun, end time.Time) time.Duration {
	if c[i].Inferred {
		return 0
	}
	before := i - 1
	for before > 0 && c[before].Inferred {
		before--
	}
	from, to := c[i].At, c[i].At
	if c[i].Rung.IsWork() {
		if to = end; i+1 < len(c) {
			to = c[i+1].At
		}
	}
	switch {
	case before < 0 || before == 0 && c[0].Inferred:
		from = begun
	case !c[before].Rung.IsWork():
		from = c[before].At
	}
	return max(to.Sub(from), 0)
}
