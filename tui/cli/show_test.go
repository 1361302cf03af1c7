package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"carte/lab"
)

// onVerify is a lab in which boot 1 of a virtual machine verifies its disk, since 30 seconds ago.
func onVerify(at time.Time) lab.Snapshot {
	b := lab.Boot{ID: 1, Machine: 1, State: lab.Working, Attempt: 1, Begun: at, Plan: lab.Plan{Stack: "hpt"}, Chosen: lab.Forecast{Strategy: lab.Full, Why: "the disk is blank", Predicted: 112}}
	for i, r := range []lab.Rung{lab.RungHello, lab.RungHash, lab.RungVerify} {
		b.Climbs = append(b.Climbs, lab.Climb{Rung: r, At: at.Add(time.Duration(i*10) * time.Second), Attempt: 1})
	}
	m := lab.Machine{ID: 1, Name: "vm-1", Standing: lab.Adopted, Virtual: &lab.Virtual{}}
	return lab.Snapshot{Machines: map[int64]lab.Machine{1: m}, Boots: map[int64]lab.Boot{1: b}}
}

func shown(t *testing.T, s lab.Snapshot, now time.Time) string {
	t.Helper()
	var out bytes.Buffer
	c := &call{term: Terminal{Out: &out, Err: &out, Now: func() time.Time { return now }}}
	if err := c.showBoot(s, s.Boots[1]); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// What a boot works on has taken so long so far; it took it only when it is over.
func TestShowBootThatGoesOn(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	s := onVerify(at)
	check := func(what string, s lab.Snapshot, now time.Time, want ...string) {
		t.Helper()
		out := shown(t, s, now)
		for _, w := range want {
			if !strings.Contains(out, w+"\n") && !strings.Contains(out, w+": ") {
				t.Errorf("%s: no %q in\n%s", what, w, out)
			}
		}
	}
	check("on verify", s, at.Add(50*time.Second), "hash\t20.0 s", "verify\t30.0 s so far", "strategy\tfull, predicted 1m52s, 50.0 s so far")

	over := s.Boots[1]
	over.State, over.Ended = lab.Failed, at.Add(35*time.Second)
	s.Boots = map[int64]lab.Boot{1: over}
	check("over", s, at.Add(time.Hour), "hash\t20.0 s", "verify\t15.0 s", "strategy\tfull, predicted 1m52s, took 35.0 s")

	blind := s.Boots[1] // as it was written down before
	blind.Climbs = append(blind.Climbs, lab.Climb{Rung: lab.RungRun, At: at.Add(35 * time.Second), Attempt: 1, Inferred: true})
	s.Boots[1] = blind
	if out := shown(t, s, at.Add(time.Hour)); strings.Contains(out, "not seen") {
		t.Errorf("a rung that nobody saw and nothing proves:\n%s", out)
	}
}

// Without a lab nothing goes on: no time passes, and a virtual machine is not where its boot was.
func TestShowBootWithoutALab(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	s := onVerify(at)
	s.Still = true
	out := shown(t, s, at.Add(24*time.Hour))
	if !strings.Contains(out, "verify\ton it when the lab stopped\n") || strings.Contains(out, "24h") || !strings.Contains(out, "no lab runs") {
		t.Errorf("without a lab:\n%s", out)
	}
	if got := stateOf(s, s.Machines[1]); got != "queued" {
		t.Errorf("the machine is %q", got)
	}
	c := &call{}
	if got := c.now(s, s.Machines[1]); got != "boot 1 hpt verify; no lab runs" {
		t.Errorf("now it does %q", got)
	}
}

// A capture says that it restarts a machine on which a system runs, and nothing where none does.
func TestCaptureSaysThatItRestarts(t *testing.T) {
	b := newBench(t)
	b.in = "x"
	b.ok("machine add vm-1 --virtual")
	b.ok("image import - --name deb --form tree")
	b.ok("stack new s --system deb")
	const says = "vm-1 is running s (boot 1): it is restarted, and that system cut off as with a power cut; shut it down first"
	if _, errs, code := b.run("capture", "deb2", "--machine", "vm-1", "--kind", "system"); code == 0 && strings.Contains(errs, "is running") {
		t.Errorf("nothing runs there: %s", errs)
	}

	b = newBench(t)
	b.in = "x"
	b.ok("machine add vm-1 --virtual")
	b.ok("image import - --name deb --form tree")
	b.ok("stack new s --system deb")
	b.ok("boot s --on vm-1")
	b.finish("vm-1")
	if _, errs, code := b.run("capture", "deb", "--machine", "vm-1"); code != 0 || !strings.Contains(errs, says) {
		t.Errorf("exit %d, it does not say %q: %s", code, says, errs)
	}
	if _, errs, _ := b.run("capture", "deb", "--machine", "vm-1"); strings.Contains(errs, "is running") {
		t.Errorf("it waits for the other capture: %s", errs)
	}
}
