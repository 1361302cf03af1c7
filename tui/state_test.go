package tui

import (
	"math"
	"testing"
	"time"

	"carte/lab"
)

// one is a lab with one machine and at most one boot.
func one(m lab.Machine, l lab.Live, boots ...lab.Boot) *index {
	m.ID, l.Machine = 1, 1
	if m.Standing == "" {
		m.Standing = lab.Adopted
	}
	s := lab.Snapshot{Machines: map[int64]lab.Machine{1: m}, Live: map[int64]lab.Live{1: l}, Boots: map[int64]lab.Boot{}}
	for i, b := range boots {
		b.ID, b.Machine = int64(i+1), 1
		s.Boots[b.ID] = b
	}
	return newIndex(s, nil)
}

func TestStateOf(t *testing.T) {
	seen := lab.Live{Seen: before(time.Second), Power: "on"}
	boot := func(s lab.State, climbs ...lab.Climb) lab.Boot {
		b := lab.Boot{State: s, Attempt: 1, Climbs: climbs, Since: before(5 * time.Second), Plan: lab.Plan{Stack: "hpt"}}
		return b
	}
	at := func(r lab.Rung, ago time.Duration) lab.Climb { return lab.Climb{Rung: r, At: before(ago), Attempt: 1} }
	for _, c := range []struct {
		name string
		x    *index
		cond condition
		word string
	}{
		{"new", one(lab.Machine{Standing: lab.Unknown}, seen), unknown, "unknown"},
		{"ignored", one(lab.Machine{Standing: lab.Ignored}, seen), ignored, "ignored"},
		{"idle", one(lab.Machine{}, seen), idle, "idle"},
		{"off", one(lab.Machine{}, lab.Live{Power: "off"}), idle, "off"},
		{"parked", one(lab.Machine{Parked: "three times"}, seen, boot(lab.Failed)), failed, "parked"},
		{"failed", one(lab.Machine{}, seen, boot(lab.Failed)), failed, "failed"},
		{"revoked", one(lab.Machine{}, seen, boot(lab.Revoked)), idle, "idle"},
		{"done", one(lab.Machine{}, seen, boot(lab.Done)), idle, "done"},
		{"done and off", one(lab.Machine{}, lab.Live{Power: "off"}, boot(lab.Done)), idle, "off"},
		{"failed, then queued", one(lab.Machine{}, seen, boot(lab.Failed), boot(lab.Queued)), booting, "waking"},
		{"power", one(lab.Machine{}, seen, boot(lab.Starting)), booting, "waking"},
		{"pxe", one(lab.Machine{}, seen, boot(lab.Starting, at(lab.RungPower, time.Second))), booting, "pxe"},
		{"kernel runs", one(lab.Machine{}, seen, boot(lab.Starting, at(lab.RungInitrd, time.Second))), booting, "booting"},
		{"probe", one(lab.Machine{}, seen, boot(lab.Working, at(lab.RungProbe, time.Second))), writing, "probing"},
		{"hash", one(lab.Machine{}, seen, boot(lab.Working, at(lab.RungHash, time.Second))), writing, "hashing"},
		{"write", one(lab.Machine{}, seen, boot(lab.Working, at(lab.RungWrite, time.Second))), writing, "writing"},
		{"verify", one(lab.Machine{}, seen, boot(lab.Working, at(lab.RungVerify, time.Second))), writing, "verify"},
		{"handover", one(lab.Machine{}, seen, boot(lab.Handover, at(lab.RungHandover, time.Second))), booting, "booting"},
		{"running", one(lab.Machine{}, seen, boot(lab.Running, at(lab.RungRun, time.Hour))), running, "running"},
		{"silent", one(lab.Machine{}, lab.Live{Seen: before(11 * time.Second)}, func() lab.Boot {
			b := boot(lab.Working, at(lab.RungWrite, time.Minute))
			b.Since = before(time.Minute)
			return b
		}()), lost, "LOST"},
		{"silent since the boot began", one(lab.Machine{}, lab.Live{}, boot(lab.Working, at(lab.RungWrite, time.Second))), writing, "writing"},
		{"no dhcp", one(lab.Machine{}, seen, boot(lab.Starting, at(lab.RungPower, 3*time.Minute))), stuck, "stuck"},
		{"no sign of life", one(lab.Machine{}, seen, boot(lab.Handover, at(lab.RungHandover, 9*time.Minute))), stuck, "stuck"},
		{"called back", one(lab.Machine{}, seen, func() lab.Boot {
			b := boot(lab.Working, at(lab.RungWrite, time.Second))
			b.Revoke = "enough"
			return b
		}()), writing, "stopping"},
	} {
		st := stateOf(c.x, c.x.snap.Machines[1], noon)
		if st.cond != c.cond || st.word != c.word {
			t.Errorf("%s: %d %q, want %d %q", c.name, st.cond, st.word, c.cond, c.word)
		}
		if st.mark.Rune == 0 {
			t.Errorf("%s has no mark", c.name)
		}
	}
}

// The rows that need a person come first.
func TestOrder(t *testing.T) {
	rows := machineRows(newIndex(bench(), nil), noon)
	for i := 1; i < len(rows); i++ {
		a, b := rows[i-1], rows[i]
		if a.cond > b.cond || a.cond == b.cond && a.label() > b.label() {
			t.Errorf("%s (%s) stands before %s (%s)", a.label(), a.word, b.label(), b.word)
		}
	}
}

// The times of all rungs add up to the time of the boot, whether or not rungs were seen.
func TestStripAddsUp(t *testing.T) {
	for name, climbs := range map[string][]lab.Climb{
		"all":          usualClimb(before(20*time.Second), 0),
		"inferred":     climbsFor(before(20*time.Second), 1, lab.RungPower, 0.0, lab.RungDHCP, -1.0, lab.RungScript, 4.0, lab.RungKernel, 1.0, lab.RungHello, 2.0, lab.RungHash, 0.5, lab.RungWrite, 1.0, lab.RungHandover, 2.0, lab.RungRun, 3.0),
		"power unseen": climbsFor(before(20*time.Second), 1, lab.RungPower, -1.0, lab.RungDHCP, -1.0, lab.RungScript, 0.0, lab.RungHello, 5.0, lab.RungProbe, 0.2, lab.RungRun, 9.0),
	} {
		b := lab.Boot{State: lab.Done, Attempt: 1, Climbs: climbs, Begun: begunBy(climbs), Ended: climbs[len(climbs)-1].At}
		var sum time.Duration
		for _, r := range strip(b, noon) {
			sum += r.took
		}
		if want := b.Ended.Sub(began(b)); sum != want {
			t.Errorf("%s: the rungs took %s, the boot %s", name, sum, want)
		}
	}
}

func TestStripShowsOnlyThisAttempt(t *testing.T) {
	b := lab.Boot{State: lab.Starting, Attempt: 2, Since: before(3 * time.Second), Climbs: append(usualClimb(before(time.Hour), 0)[:6], lab.Climb{Rung: lab.RungPower, At: before(2 * time.Second), Attempt: 2})}
	steps := strip(b, noon)
	if !steps[0].reached || steps[1].reached || !steps[1].current || steps[1].took != 2*time.Second {
		t.Errorf("strip = %+v", steps[:2])
	}
}

func TestUsual(t *testing.T) {
	x := newIndex(bench(), nil)
	u := x.usualOf(2, "hpt-3")
	if u.n != 5 || u.total != 15600*time.Millisecond || u.took[lab.RungDHCP] != 4200*time.Millisecond || u.slowest[lab.RungDHCP] != 4400*time.Millisecond {
		t.Errorf("usual = %d boots, %s in all, dhcp %s, at most %s", u.n, u.total, u.took[lab.RungDHCP], u.slowest[lab.RungDHCP])
	}
	if u := x.usualOf(2, "never"); u.n != 0 || u.total != 0 {
		t.Errorf("boots that never were usually take %s", u.total)
	}
}

func TestSlowNamesCauseAndFix(t *testing.T) {
	b := lab.Boot{State: lab.Starting, Attempt: 1, Since: before(20 * time.Second), Climbs: climbsFor(before(20*time.Second), 1, lab.RungPower, 0.0)}
	metal, vm := lab.Machine{}, lab.Machine{Virtual: &lab.Virtual{}}
	if _, late := b.Late(metal, lab.Live{}, nil, noon); late {
		t.Error("20 s without DHCP are nothing for a server's firmware")
	}
	known := map[lab.Rung]time.Duration{lab.RungDHCP: 4 * time.Second}
	if step, late := b.Late(metal, lab.Live{}, known, noon); !late || step.Rung != lab.RungDHCP || step.Cause == "" || step.Fix == "" {
		t.Errorf("a machine that usually takes 4 s is not late after 20: %+v", step)
	}
	if step, _ := b.Late(vm, lab.Live{}, nil, noon); step.Rung != lab.RungScript {
		t.Errorf("a virtual machine leaves no trace of DHCP, it is waited for %s", step.Rung)
	}
}

func TestWords(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "0.0s", 1234 * time.Millisecond: "1.2s", 41 * time.Second: "41s", 130 * time.Second: "2m10s", 59700 * time.Millisecond: "1m00s",
		65 * time.Minute: "1h05m", 80 * time.Hour: "3d", -time.Second: "0.0s"} {
		if got := span(d); got != want {
			t.Errorf("span(%s) = %q, want %q", d, got, want)
		}
	}
	for at, want := range map[time.Duration]string{0: "0s", 9900 * time.Millisecond: "9s", 42 * time.Second: "42s", 150 * time.Second: "2m", 90 * time.Minute: "1h30m", -time.Hour: "0s"} {
		if got := ago(noon, before(at)); got != want {
			t.Errorf("ago(%s) = %q, want %q", at, got, want)
		}
	}
	for _, c := range []struct {
		part int64
		want string
	}{{0, "0%"}, {1, "under 0.01%"}, {12_400_000, "0.06%"}, {384_000_000, "1.9%"}, {2_000_000_000, "10%"}, {20_000_000_000, "100%"}} {
		if got := percent(c.part, 20_000_000_000); got != c.want {
			t.Errorf("percent(%d) = %q, want %q", c.part, got, c.want)
		}
	}
}

func TestQuantity(t *testing.T) {
	for want, x := range map[string]lab.Metric{
		"36.8 us": {Value: 3.67707e-05, Unit: "s"}, "1.5 ms": {Value: 0.0015, Unit: "s"}, "96.2 s": {Value: 96.2, Unit: "s"}, "912 206/s": {Value: 912206, Unit: "1/s"},
		"1.3 GB/s": {Value: 1.3462e9, Unit: "B/s"}, "4.0 MB": {Value: 4e6, Unit: "B"}, "-12 345": {Value: -12345}, "9999 x": {Value: 9999, Unit: "x"}, "1 000 000": {Value: 1e6},
		"NaN": {Value: math.NaN()}, "0.25": {Value: 0.25}, "0 s": {Unit: "s"},
	} {
		if got := quantity(x); got != want {
			t.Errorf("quantity(%v %s) = %q, want %q", x.Value, x.Unit, got, want)
		}
	}
}

func TestFilter(t *testing.T) {
	field := map[string]string{"state": "LOST", "kind": "qemu"}
	for text, want := range map[string]bool{"": true, "NUC": true, "nuc running": false, "nuc !running": true, "!nuc": false, "re:^nuc-[12]$": false, "re:nuc-[12]": true,
		"state:lost": true, "state:lost kind:metal": false, "!state:idle": true, "14:03": false, "re:(": false, "stack:hpt*": false} {
		if got := parseFilter(text).keeps("nuc-1 hpt-2", field); got != want {
			t.Errorf("/%s keeps the row: %v, want %v", text, got, want)
		}
	}
}
