package lab

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestStrangers(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	if _, known, err := b.SeenMachine(ctx, "52:54:00:00:00:0a", RungDHCP, "", false); known || err != nil {
		t.Errorf("a card that does not boot from the network is remembered (%v)", err)
	}
	m, known, err := b.SeenMachine(ctx, "52:54:00:00:00:0a", RungDHCP, "10.0.0.9", true)
	if !known || err != nil || m.Standing != Unknown || m.Name != "" || m.Label() != "52:54:00:00:00:0a" {
		t.Errorf("%+v %v %v", m, known, err)
	}
	b.refused(Queue{Machine: "52:54:00:00:00:0a", Stack: "deb"}, ErrRefused, "unknown", "adopt")
	b.refused(PowerMachine{Machine: "52:54:00:00:00:0a", Want: "on"}, ErrRefused)
	b.refused(SetMachine{Machine: "52:54:00:00:00:0a", Values: map[string]string{"name": "n"}}, ErrRefused, "adopt")
	s := b.script("52:54:00:00:00:0a")
	if s.Do != ScriptHold || s.Token != "" || !strings.Contains(s.Why, m.Code()) {
		t.Errorf("a stranger gets %+v", s)
	}
	b.must(Ignore{Machine: "52:54:00:00:00:0a"})
	if s := b.script("52:54:00:00:00:0a"); s.Do != ScriptLocal || s.Token != "" {
		t.Errorf("an ignored machine gets %+v", s)
	}
	for i := range 2 * maxUnknown {
		b.script(MAC(fmt.Sprintf("52:54:01:00:00:%02x", i)))
	}
	if n := len(b.now().Machines); n != 3+maxUnknown {
		t.Errorf("%d machines after a flood", n)
	}
	if s := b.script("52:54:02:00:00:00"); s.Do != ScriptHold || s.Token != "" {
		t.Errorf("one stranger too many gets %+v", s)
	}
	b.must(AddMachine{Name: "known", MACs: []string{"52-54-01-00-00-00", "52:54:01:00:00:00"}}) // a stranger is swallowed
	if m := b.machine("known"); len(m.MACs) != 1 || len(b.now().Machines) != 3+maxUnknown {
		t.Errorf("%+v", m)
	}
}

func TestScript(t *testing.T) {
	for _, c := range []struct {
		what           string
		machine, stack string
		state          State
		do             string
		then           State // of the boot
		strikes        int
	}{
		{"queued and started", "vm", "deb", Starting, ScriptAgent, Starting, 0},
		{"restarted while the agent works", "vm", "deb", Working, ScriptAgent, Starting, 1},
		{"disk proven, console read", "vm", "deb", Handover, ScriptLocal, Handover, 0},
		{"disk proven, console not read", "metal", "deb", Handover, ScriptLocal, Done, 0},
		{"tree fell over", "vm", "tree", Handover, ScriptAgent, Starting, 1},
		{"tree restarted", "vm", "tree", Running, ScriptAgent, Starting, 1},
	} {
		b := newBench(t)
		id := b.queue(c.machine, c.stack)
		b.take(id, c.state, 1)
		ticket := b.machine(c.machine).Ticket
		s := b.script(b.machine(c.machine).MACs[0])
		x := b.boot(id)
		if s.Do != c.do || x.State != c.then || x.Strikes != c.strikes || (s.Token != "") != (s.Do == ScriptAgent) {
			t.Errorf("%s: %+v, and the boot is %s with %d strikes", c.what, s, x.State, x.Strikes)
		}
		if c.strikes > 0 && b.machine(c.machine).Ticket.Number <= ticket.Number {
			t.Errorf("%s: the old ticket is still good", c.what)
		}
	}
	b := newBench(t)
	if s := b.script(vmMAC); s.Do != ScriptAgent || s.Boot != 0 {
		t.Errorf("a machine nobody has looked at gets %+v", s)
	}
	if s := b.script(metalMAC); s.Do != ScriptLocal {
		t.Errorf("a machine with nothing queued gets %+v", s)
	}
	b.must(SetMachine{Machine: "metal", Values: map[string]string{"warm": "yes"}})
	if s := b.script(metalMAC); s.Do != ScriptAgent || s.Boot != 0 {
		t.Errorf("a warm machine with nothing queued gets %+v", s)
	}
}

// A machine that restarts for ever is given up, whatever it does.
func TestNoRestartLoop(t *testing.T) {
	b := newBench(t)
	id := b.queue("vm", "deb")
	for i := range 10 {
		s := b.script(vmMAC)
		if s.Do == ScriptAgent && s.Boot == id {
			b.claim(s, i, usual)
		}
	}
	b.in(id, Failed, "restarted by itself", "3 attempts")
	if s := b.script(vmMAC); s.Do != ScriptLocal {
		t.Errorf("%+v", s)
	}
}

func TestLease(t *testing.T) {
	b := newBench(t)
	p := Pool{First: netip.MustParseAddr("10.0.0.10"), Last: netip.MustParseAddr("10.0.0.11"), Lease: time.Hour}
	lease := func(mac MAC, want string) Address {
		t.Helper()
		a, err := b.Lease(t.Context(), mac, p)
		if err != nil || a.IP != want || a.MAC != mac || b.now().Addresses[mac] != a {
			t.Errorf("%s gets %+v, %v, want %s", mac, a, err, want)
		}
		return a
	}
	first := lease("a", "10.0.0.10")
	lease("b", "10.0.0.11")
	rev := b.now().Rev
	if again := lease("a", "10.0.0.10"); again != first || b.now().Rev != rev {
		t.Error("asking again at once writes something")
	}
	_, err := b.Lease(t.Context(), "c", p)
	wantError(t, "a pool that is used up", err, ErrBusy, "10.0.0.10", "10.0.0.11", "widen")
	b.pass(40 * time.Minute)
	if renewed := lease("a", "10.0.0.10"); !renewed.Until.Equal(b.clock.Add(time.Hour)) {
		t.Errorf("renewed until %s", renewed.Until)
	}
	b.pass(21 * time.Minute)
	lease("c", "10.0.0.11") // b's has ended
	if _, ok := b.now().Addresses["b"]; ok {
		t.Error("b still has what c was given")
	}
	b.reopen()
	lease("a", "10.0.0.10")
	p = Pool{First: netip.MustParseAddr("255.255.255.254"), Last: netip.MustParseAddr("255.255.255.255"), Lease: time.Hour}
	lease("a", "255.255.255.254") // another pool, another address
	lease("d", "255.255.255.255")
	_, err = b.Lease(t.Context(), "e", p)
	wantError(t, "a pool at the end of all addresses", err, ErrBusy)
	if _, err := b.Lease(t.Context(), "e", Pool{}); err == nil {
		t.Error("no pool, and an address")
	}
}

func TestServices(t *testing.T) {
	b := newBench(t)
	for range 2 {
		if err := b.Tell(t.Context(), Service{Name: "dhcp", State: "serves", OK: true}); err != nil {
			t.Fatal(err)
		}
	}
	if !b.now().Services["dhcp"].OK {
		t.Error("what a service tells is lost")
	}
}
