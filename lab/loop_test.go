package lab

import (
	"errors"
	"testing"
	"time"
)

// A machine that restarts for ever before its agent says a word is parked, though nobody ever reports an error.
func TestNoLoopBeforeTheHello(t *testing.T) {
	b := newBench(t)
	id := b.queue("metal", "deb")
	for begin := b.clock; b.script(metalMAC).Do == ScriptAgent; b.pass(30 * time.Second) {
		b.seen(metalMAC, RungKernel)
		b.seen(metalMAC, RungInitrd)
		if b.clock.Sub(begin) > time.Hour {
			t.Fatalf("after an hour the boot is still %s at attempt %d", b.boot(id).State, b.boot(id).Attempt)
		}
	}
	b.in(id, Failed, "rung hello", "3 attempts")
	if b.machine("metal").Parked == "" {
		t.Error("the machine is not parked")
	}
}

// An agent that waits may be found by a boot that has asked for the machine to be switched on: then that is over, and so
// is the advice to switch it on by hand.
func TestOrdersForAnAgentThatWaits(t *testing.T) {
	for _, driver := range []string{"manual", "exec:plug"} {
		b := newBench(t)
		b.must(SetMachine{Machine: "metal", Values: map[string]string{"power": driver, "warm": "yes"}})
		b.claim(b.script(metalMAC), 1, usual)
		b.reopen() // the server forgets that the agent is there
		metal := b.machine("metal").ID
		id := b.queue("metal", "deb")
		if live := b.now().Live[metal]; live.Order == "" && live.Note == "" {
			t.Fatalf("%s: nobody was asked for the machine", driver)
		}
		if o := b.report(1, Report{}).Orders; o == nil || o.Do != DoBoot {
			t.Fatalf("%s: the agent got %+v", driver, o)
		}
		b.in(id, Working)
		if live := b.now().Live[metal]; live.Order != "" || live.Note != "" {
			t.Errorf("%s: while the agent works the order is %q, the note %q", driver, live.Order, live.Note)
		}
	}
}

// A machine with nothing to boot whose kernel dies before the hello is not started for ever either.
func TestNoLoopWithoutABoot(t *testing.T) {
	b := newBench(t)
	b.must(AddMachine{Name: "dies", MACs: []string{"02:00:00:00:00:99"}})
	asked := 0
	for b.script("02:00:00:00:00:99").Do == ScriptAgent {
		if asked++; asked > 100 {
			t.Fatal("the agent is started without end")
		}
		b.pass(10 * time.Second)
	}
	if m := b.machine("dies"); m.Parked == "" || asked != maxSilent {
		t.Errorf("after %d starts parked = %q", asked, m.Parked)
	}
	b.must(SetMachine{Machine: "dies", Values: map[string]string{"parked": "no"}})
	if s := b.script("02:00:00:00:00:99"); s.Do != ScriptAgent {
		t.Errorf("no longer parked, it gets %+v", s)
	}
}

// What the lab cannot see is not called done, unless the stack asks for no more; what firmware says is believed.
func TestWhatIsNotSeen(t *testing.T) {
	b := newBench(t)
	id := b.queue("vm", "deb")
	b.take(id, Handover, 1)
	b.say("vm", "No bootable device.") // before it was sent to the disk this is another disk's or the network's affair
	b.in(id, Handover)
	b.script(vmMAC)
	b.say("vm", "Boot failed: not a bootable disk", "No bootable device.")
	b.in(id, Failed, "found nothing to start")

	b.must(PutStack{Stack: Stack{Name: "mute", Layers: []Ref{{Name: "deb"}}, Until: RungHandover}})
	id = b.queue("vm", "mute")
	b.take(id, Handover, 2)
	b.script(vmMAC)
	b.in(id, Done, "asks for no more")
	if got := b.boot(id); got.Rung() != RungHandover {
		t.Errorf("nobody saw it run, and its last rung is %s: %+v", got.Rung(), got.Climbs)
	}
	b.refused(PutStack{Stack: Stack{Name: "odd", Layers: []Ref{{Name: "deb"}}, Until: RungHash}}, ErrInvalid, "handover, run or collect")
}

// A power driver whose program or setting is wrong ends the boot at once; one that merely failed is tried again.
func TestPowerErrors(t *testing.T) {
	for err, want := range map[error]State{ErrNotFound: Failed, ErrInvalid: Failed, errors.New("the plug did not answer"): Starting} {
		b := newBench(t)
		id := b.queue("vm", "deb")
		if err := b.Powered(t.Context(), Powered{Machine: b.machine("vm").ID, Order: "cycle", State: "off", Err: err}); err != nil {
			t.Fatal(err)
		}
		b.in(id, want)
	}
}

func TestPowerOffStays(t *testing.T) {
	b := newBench(t)
	one, two := b.queue("vm", "deb"), b.queue("vm", "deb")
	off := PowerMachine{Machine: "vm", Want: "off"}
	b.refused(off, ErrBusy, "turn it on again")
	b.must(Stop{Boot: two})
	b.must(off)
	b.in(one, Revoked, "switched the machine off")
}
