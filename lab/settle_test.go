package lab

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestOverdue(t *testing.T) {
	for _, c := range []struct {
		what    string
		machine string
		stack   string
		prepare func(b *bench, id int64)
		after   time.Duration // still good
		want    State         // a second later; Starting again means a strike
		words   []string
	}{
		{"not switched on", "vm", "deb", func(*bench, int64) {}, 2 * time.Minute, Starting, []string{"rung power"}},
		{"no script", "vm", "deb", func(b *bench, id int64) { b.seen(vmMAC, RungDHCP) }, 2 * time.Minute, Starting, []string{"rung script"}},
		{"no agent", "vm", "deb", func(b *bench, id int64) { b.script(vmMAC); b.seen(vmMAC, RungInitrd) }, 4 * time.Minute, Starting, []string{"rung hello", "agent did not say hello"}},
		{"metal between script and kernel", "metal", "deb", func(b *bench, id int64) { b.script(metalMAC) }, 3 * time.Minute, Starting, []string{"rung kernel"}},
		{"silent agent", "vm", "deb", func(b *bench, id int64) { b.take(id, Working, 1) }, agentSilence, Starting, []string{"silent"}},
		{"never came back", "vm", "deb", func(b *bench, id int64) { b.take(id, Handover, 1) }, 4 * time.Minute, Starting, []string{"rung handover"}},
		{"never came back, nothing was written", "vm", "deb", func(b *bench, id int64) {
			b.take(id, Working, 1)
			b.report(1, Report{Boot: id, Rung: RungHash, Proven: true})
			b.report(1, Report{Boot: id, Rung: RungHandover})
		}, 4 * time.Minute, Starting, []string{"rung handover"}},
		{"silent console", "vm", "deb", func(b *bench, id int64) { b.take(id, Handover, 1); b.script(vmMAC) }, 10 * time.Minute, Failed, []string{"no login prompt", "--until handover"}},
		{"silent tree", "vm", "tree", func(b *bench, id int64) { b.take(id, Handover, 1) }, 10 * time.Minute, Starting, []string{"rung run"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			b := newBench(t)
			id := b.queue(c.machine, c.stack)
			c.prepare(b, id)
			before := b.boot(id)
			b.pass(c.after)
			if now := b.boot(id); now.State != before.State || now.Attempt != before.Attempt {
				t.Errorf("after %s it is %s: %s", c.after, now.State, now.Reason)
			}
			b.pass(time.Second)
			now := b.boot(id)
			if now.State != c.want || (c.want == Starting) != (now.Attempt == before.Attempt+1) {
				t.Errorf("it is %s, attempt %d, want %s", now.State, now.Attempt, c.want)
			}
			for _, w := range c.words {
				b.wrote(w)
			}
		})
	}
}

// seen lets the netboot servers see a card.
func (b *bench) seen(mac MAC, r Rung) {
	b.t.Helper()
	if _, _, err := b.SeenMachine(b.t.Context(), mac, r, "", false); err != nil {
		b.t.Fatal(err)
	}
}

// wrote wants a line with that text in the journal.
func (b *bench) wrote(text string) {
	b.t.Helper()
	for _, f := range b.paper.facts {
		if strings.Contains(f, text) {
			return
		}
	}
	b.t.Errorf("the journal does not say %q: %q", text, b.paper.facts)
}

// A machine that a person switches on is waited for.
func TestManualPowerHasNoLimit(t *testing.T) {
	b := newBench(t)
	b.pass(agentSilence) // the agent that looked at its disks is gone
	id := b.queue("metal", "deb")
	b.pass(24 * time.Hour)
	b.in(id, Starting)
	if x := b.boot(id); x.Attempt != 1 {
		t.Errorf("attempt %d", x.Attempt)
	}
	metal := b.machine("metal").ID
	if live := b.now().Live[metal]; live.Order != "" || live.Note == "" {
		t.Errorf("%+v", live)
	}
	b.must(PowerMachine{Machine: "metal", Want: "cycle"})
	if err := b.Powered(t.Context(), Powered{Machine: metal, Order: "cycle", Err: errors.New("press its button")}); err != nil {
		t.Fatal(err)
	}
	if live := b.now().Live[metal]; b.boot(id).Strikes != 0 || live.Note != "press its button" {
		t.Errorf("an instruction to the operator counts as a failure: %+v", b.boot(id))
	}
	b.take(id, Working, 1)
	if live := b.now().Live[metal]; live.Note != "" {
		t.Errorf("the instruction stays when it was followed: %q", live.Note)
	}
}

func TestRunningHasNoLimit(t *testing.T) {
	b := newBench(t)
	id := b.queue("vm", "tree")
	b.take(id, Running, 1)
	b.pass(1000 * time.Hour)
	b.in(id, Running)
}

func TestPowered(t *testing.T) {
	b := newBench(t)
	vm := b.machine("vm").ID
	id := b.queue("vm", "deb")
	if o := b.now().Live[vm].Order; o != "cycle" {
		t.Errorf("order %q", o)
	}
	power := func(p Powered) {
		t.Helper()
		p.Machine = vm
		if err := b.Powered(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	power(Powered{State: "off"}) // before the order is carried out
	b.in(id, Starting)
	power(Powered{Order: "cycle", State: "on"})
	if x := b.boot(id); x.Rung() != RungPower || b.now().Live[vm].Order != "" {
		t.Errorf("%+v", x)
	}
	b.take(id, Working, 1)
	power(Powered{State: "off"})
	b.wrote("the machine went off on the rung hello")
	if live := b.now().Live[vm]; live.Order != "on" || live.Agent {
		t.Errorf("%+v", live)
	}
	for range 2 {
		power(Powered{Order: "on", Err: errors.New("qemu: no such file\x1b[0m")})
	}
	b.in(id, Failed, "power on: qemu: no such file (3 attempts)")
	power(Powered{Machine: 99})
}

func TestRestartOfTheServer(t *testing.T) {
	for _, state := range []State{Starting, Working, Handover, Running} {
		b := newBench(t)
		id := b.queue("vm", "tree")
		b.take(id, state, 1)
		next := b.queue("vm", "deb")
		b.clock = b.clock.Add(time.Hour)
		b.reopen()
		if x := b.boot(id); x.State != Starting || x.Attempt != 2 || x.Strikes != 0 {
			t.Errorf("a virtual machine's boot that was %s is %s, attempt %d, %d strikes", state, x.State, x.Attempt, x.Strikes)
		}
		b.in(next, Queued)
	}
	for _, state := range []State{Starting, Working, Handover} { // a real machine went on without the server
		b := newBench(t)
		id := b.queue("metal", "deb")
		b.take(id, state, 1)
		b.clock = b.clock.Add(time.Hour)
		b.reopen()
		b.in(id, state)
		if x := b.boot(id); x.Attempt != 1 || x.Strikes != 0 {
			t.Errorf("a real machine's boot that was %s: attempt %d, %d strikes", state, x.Attempt, x.Strikes)
		}
		b.pass(time.Hour)
		if x := b.boot(id); x.Strikes == 0 {
			t.Errorf("a real machine that never came back is still %s", x.State)
		}
	}
	b := newBench(t)
	id := b.queue("vm", "deb")
	b.take(id, Working, 1)
	b.must(Stop{Boot: id, Reason: "lunch"})
	b.reopen()
	b.in(id, Revoked, "lunch")
}
