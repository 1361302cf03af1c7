package lab

import (
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
