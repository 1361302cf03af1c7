package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"carte/lab"
)

// metrics are what a probe has said.
func metrics(pairs ...any) map[string]lab.Metric {
	m := map[string]lab.Metric{}
	for i := 0; i < len(pairs); i += 2 {
		m["contract_"+pairs[i].(string)] = lab.Metric{Value: pairs[i+1].(float64)}
	}
	return m
}

// climbed is a boot whose system ran, or only was started.
func climbed(ran bool, p lab.Plan) lab.Boot {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	b := lab.Boot{ID: 7, Plan: p, State: lab.Done, Climbs: []lab.Climb{{Rung: lab.RungHandover, At: at}}}
	if ran {
		b.Climbs = append(b.Climbs, lab.Climb{Rung: lab.RungRun, At: at.Add(12 * time.Second)})
	} else {
		b.State, b.Reason = lab.Failed, "no sign of life"
	}
	return b
}

func verdict(all []lab.Proof, c lab.Clause) lab.Proof {
	for _, p := range all {
		if p.Clause == c {
			return p
		}
	}
	return lab.Proof{}
}

// What two boots have shown decides on each clause, and what they cannot show is said.
func TestJudge(t *testing.T) {
	plan := lab.Plan{Form: lab.FormTree, Start: lab.StartKexec, Reset: lab.ResetAlways}
	every := lab.Terms{}
	for _, row := range lab.Clauses {
		plan.Agreed = append(plan.Agreed, lab.Agreed{Clause: row.Clause, Given: true})
		every[row.Clause] = lab.Optional
	}
	second := plan
	second.Agreed = nil
	for _, a := range plan.Agreed {
		if a.Clause == lab.Lazy {
			a = lab.Agreed{Clause: lab.Lazy, Why: "nobody asked"}
		}
		second.Agreed = append(second.Agreed, a)
	}
	good := func(p lab.Plan) seenBoot {
		b := seenBoot{Boot: climbed(true, p), beats: 3, absent: 1 << 20, whole: true, late: true}
		b.Metrics, b.Results, b.Moved = metrics("started", 1.0, "dirty", 0.0, "network", 1.0), []lab.Result{{Path: "contract", Bytes: 7}}, lab.Moved{Read: 1 << 20}
		return b
	}
	bad := func(p lab.Plan) seenBoot {
		b := seenBoot{Boot: climbed(true, p)}
		b.Metrics, b.Moved = metrics("dirty", 1.0, "network", 0.0), lab.Moved{Written: 4096}
		return b
	}
	x := evidence{terms: every, probes: true, one: good(plan), two: good(second), net: good(second)}
	for _, p := range x.judge() {
		if p.Verdict != lab.VerdictKept || p.Why == "" {
			t.Errorf("all is well, and %+v", p)
		}
	}
	x.one, x.two, x.net = bad(plan), bad(second), bad(second)
	for _, p := range x.judge() {
		want := lab.VerdictBroken
		switch p.Clause {
		case lab.Starts, lab.Sealed: // which were seen
			want = lab.VerdictKept
		case lab.Lazy, lab.Results: // it is too small to tell; without a network nothing can come home
			want = lab.VerdictSkipped
		}
		if p.Verdict != want || p.Why == "" {
			t.Errorf("nothing is well, and %+v", p)
		}
	}
	none := evidence{one: good(plan), two: good(plan), net: good(plan)}
	for _, p := range none.judge()[1:] {
		if p.Verdict != lab.VerdictAbsent || p.Why == "" {
			t.Errorf("nothing is declared, and %+v", p)
		}
	}
	refused := plan
	refused.Agreed = []lab.Agreed{{Clause: lab.Overlay, Why: "nobody asked"}}
	x.one, x.two, x.net = good(refused), good(refused), good(refused)
	if p := verdict(x.judge(), lab.Overlay); p.Verdict != lab.VerdictSkipped || p.Why != "nobody asked" {
		t.Errorf("it was not agreed on, and %+v", p)
	}
	x.one, x.two, x.net = seenBoot{Boot: climbed(false, plan)}, seenBoot{Boot: climbed(false, plan)}, seenBoot{Boot: climbed(false, plan)}
	for _, p := range x.judge() {
		if want := map[bool]lab.Verdict{true: lab.VerdictBroken, false: lab.VerdictSkipped}[p.Clause == lab.Starts]; p.Verdict != want {
			t.Errorf("it did not start, and %+v", p)
		}
	}
}

// What looks like a proof and is none is not taken for one.
func TestJudgeIsHonest(t *testing.T) {
	given := func(start lab.Start, all ...lab.Clause) lab.Plan {
		p := lab.Plan{Form: lab.FormTree, Start: start, Reset: lab.ResetAlways}
		for _, c := range all {
			p.Agreed = append(p.Agreed, lab.Agreed{Clause: c, Given: true})
		}
		return p
	}
	up := func(p lab.Plan) seenBoot {
		b := seenBoot{Boot: climbed(true, p)}
		b.Metrics = metrics("started", 1.0, "network", 1.0, "dirty", 0.0)
		return b
	}
	for _, c := range []struct {
		what string
		x    evidence
		of   lab.Clause
		want lab.Verdict
		why  string
	}{
		{"carte's kernel had the network", evidence{probes: true, net: up(given(lab.StartPivot, lab.Network))}, lab.Network, lab.VerdictSkipped, "--kernel"},
		{"lazy layers come over it", evidence{probes: true, net: up(given(lab.StartKexec, lab.Network, lab.Lazy))}, lab.Network, lab.VerdictSkipped, "lazy"},
		{"nobody looked", evidence{net: seenBoot{Boot: climbed(true, given(lab.StartKexec, lab.Network))}}, lab.Network, lab.VerdictSkipped, "no shell"},
		{"the layers had not arrived", evidence{probes: true, one: seenBoot{absent: 9}, two: up(given(lab.StartPivot, lab.Overlay))}, lab.Overlay, lab.VerdictSkipped, "not all"},
		{"nobody wrote results", evidence{two: seenBoot{Boot: climbed(true, given(lab.StartPivot, lab.Results))}}, lab.Results, lab.VerdictSkipped, "no shell"},
	} {
		c.x.terms = lab.Terms{c.of: lab.Optional}
		if p := c.x.prove(c.of); p.Verdict != c.want || !strings.Contains(p.Why, c.why) {
			t.Errorf("%s: %+v", c.what, p)
		}
	}
	own := evidence{own: true, probes: true, terms: lab.Terms{lab.Autostart: lab.Required}, one: seenBoot{Boot: climbed(true, given(lab.StartPivot, lab.Autostart)), said: "starts"}}
	own.one.State, own.one.Reason = lab.Failed, "exit 3"
	if p := own.prove(lab.Autostart); p.Verdict != lab.VerdictKept || !strings.Contains(p.Why, "its own program started") || !strings.Contains(p.Why, "exit 3") {
		t.Errorf("a program that fails has started: %+v", p)
	}
	own.one.said = ""
	own.one.Metrics = nil
	if p := own.prove(lab.Autostart); p.Verdict != lab.VerdictBroken {
		t.Errorf("a program that did not start: %+v", p)
	}
}

// A whole disk and a kernel in memory prove what is heard of them; the rest is not offered.
func TestJudgeWithoutAShim(t *testing.T) {
	disk := lab.Plan{Form: lab.FormDisk, Start: lab.StartDisk, Agreed: []lab.Agreed{{Clause: lab.Network, Given: true}, {Clause: lab.Heartbeat, Why: "carte cannot keep it for a disk"}, {Clause: lab.Sealed, Given: true}}}
	x := evidence{terms: lab.Terms{lab.Network: lab.Optional, lab.Heartbeat: lab.Optional, lab.Sealed: lab.Optional}, one: seenBoot{Boot: climbed(true, disk), word: "carte login:", sayings: 1}, two: seenBoot{Boot: climbed(true, disk), network: "1"}}
	x.two.Moved = lab.Moved{Read: 100, Written: 50}
	x.net = x.two
	for c, want := range map[lab.Clause]string{
		lab.Starts:    `kept its system ran 12.0 s after it was started (disk), and said "carte login:"`,
		lab.Again:     "kept its system writes to its disk, as a disk's may: the second boot put 50 B back, and started from the same bytes",
		lab.Sealed:    "kept before the second start 100 B were read and proven, and 50 B written anew",
		lab.Network:   "kept its system said on its console that the network is up (contract_network=1)",
		lab.Heartbeat: "skipped carte cannot keep it for a disk; 1 ::carte line was heard there",
		lab.Overlay:   "not offered carte cannot keep it for a disk; what the system changes stays on the disk, and a reset is a flash",
	} {
		if p := verdict(x.judge(), c); string(p.Verdict)+" "+p.Why != want {
			t.Errorf("%s: %s %s\nwant %s", c, p.Verdict, p.Why, want)
		}
	}
	x.two.Moved.Written, x.net.network = 0, ""
	if p := verdict(x.judge(), lab.Again); p.Verdict != lab.VerdictKept || !strings.Contains(p.Why, "as it was laid") {
		t.Errorf("a disk that nobody wrote to: %+v", p)
	}
	if p := verdict(x.judge(), lab.Network); p.Verdict != lab.VerdictSkipped || !strings.Contains(p.Why, "::carte metric contract_network=1") {
		t.Errorf("a disk that says nothing of its network: %+v", p)
	}
	x.two.Boot = climbed(false, disk)
	if p := verdict(x.judge(), lab.Again); p.Verdict != lab.VerdictBroken || !strings.Contains(p.Why, "no sign of life") {
		t.Errorf("a disk that starts once: %+v", p)
	}
	x.one.Boot = climbed(true, disk)
	x.one.Climbs = x.one.Climbs[:1] // and its boot is done: nobody looks
	if p := verdict(x.judge(), lab.Starts); p.Verdict != lab.VerdictSkipped {
		t.Errorf("a disk that nobody looks at: %+v", p)
	}
	memory := seenBoot{Boot: climbed(false, lab.Plan{Form: lab.FormKernel, Start: lab.StartMemory})}
	all := evidence{one: memory, two: memory, net: memory}.judge()
	if p := all[0]; len(all) != 8 || p.Verdict != lab.VerdictBroken || !strings.Contains(p.Why, "--cmdline") || all[1].Verdict != lab.VerdictAbsent {
		t.Errorf("a kernel that says nothing: %+v", all)
	}
}

// What there is nothing to prove of is told what would be needed.
func TestContractRefusals(t *testing.T) {
	b := newBench(t)
	b.in = "bytes"
	b.ok("image import - --name debian --form tree")
	b.ok("image import - --name whole --form disk")
	b.ok("image import - --name notes --kind user --form files --place /home/me")
	b.ok("image import - --name rq --kind project --form files --offer autostart=required")
	b.ok("machine add metal --mac 52:54:00:00:00:77")
	if _, errs, code := b.run("contract", "test", "debian"); code != 8 || !strings.Contains(errs, "carte serve") {
		t.Errorf("without a lab: exit %d %s", code, errs)
	}
	b.serve()
	for line, want := range map[string]string{
		"notes":                      "--offer autostart=required",
		"rq":                         "--system IMAGE names the tree; there are debian",
		"rq --system whole":          "whole is a disk, and what is needed is a tree",
		"rq --system nobody":         "nobody",
		"debian --system debian":     "is a system itself",
		"whole --kernel debian":      "--kernel is for trees",
		"debian --alone":             "--alone is for a kernel",
		"debian --until handover":    "--until",
		"whole --until run":          "--until",
		"debian --machine metal":     "is no virtual machine",
		"debian --firmware coreboot": "neither bios nor uefi",
		"debian --timeout 0s":        "--timeout",
		"whole --cmdline quiet":      "has its own command line",
		"nothing":                    "nothing",
	} {
		_, errs, code := b.run(append([]string{"contract", "test"}, strings.Fields(line)...)...)
		if code == 0 || !strings.Contains(errs, want) {
			t.Errorf("%s: exit %d %s", line, code, errs)
		}
	}
	b.left(4, 0, 1)
	b.desk.findings = []lab.Finding{{What: "qemu", Must: true, Why: "it is not installed"}}
	if _, errs, code := b.run("contract", "test", "whole"); code == 0 || !strings.Contains(errs, "qemu: it is not installed") {
		t.Errorf("without QEMU: exit %d %s", code, errs)
	}
}

// left wants so many images, stacks and machines.
func (b *bench) left(images, stacks, machines int) {
	b.t.Helper()
	s, err := b.desk.Watch(b.t.Context(), 0)
	if err != nil {
		b.t.Fatal(err)
	}
	if len(s.Images) != images || len(s.Stacks) != stacks || len(s.Machines) != machines {
		b.t.Errorf("there are %d images, %d stacks and %d machines; want %d, %d, %d", len(s.Images), len(s.Stacks), len(s.Machines), images, stacks, machines)
	}
}

// plays is the virtual machine of a contract test, by hand: it goes on and off as it is told, and does as boot says when it is on.
func (b *bench) plays(machine string, boot func(lab.Machine)) (wait func()) {
	return b.when("the end", func(s lab.Snapshot) bool {
		m, err := s.Find(machine)
		if err != nil {
			return false
		}
		switch s.Live[m.ID].Order {
		case "off":
			err = b.desk.Powered(b.t.Context(), lab.Powered{Machine: m.ID, Order: "off", State: "off"})
			if err != nil {
				b.t.Error(err)
			}
			return true
		case "on", "cycle":
			boot(m)
		}
		return false
	}, func() {})
}

// A disk is laid and started twice; its login prompt is the proof. The badge is shown wherever the image is.
func TestContractOfADisk(t *testing.T) {
	b := newBench(t)
	b.in = "bytes"
	b.ok("image import - --name whole --form disk")
	b.serve()
	boots := 0
	wait := b.plays("contract-whole", func(m lab.Machine) {
		b.climb(m.Name, lab.Moved{Read: 1 << 20, Written: int64(1-boots) << 20})
		if _, err := b.desk.Script(t.Context(), m.MACs[0], "10.0.2.15"); err != nil {
			t.Error(err)
		}
		if err := b.desk.Console(t.Context(), m.ID, []string{"GRUB", "whole login: "}); err != nil {
			t.Error(err)
		}
		boots++
	})
	if _, err := b.desk.Say(t.Context(), lab.PutStack{Stack: lab.Stack{Name: "contract-whole", Layers: []lab.Ref{{Name: "whole"}}, Note: contractNote}}); err != nil {
		t.Fatal(err)
	}
	out, errs, code := b.run("contract", "test", "whole", "--json")
	wait()
	var doc badgeDoc
	if err := json.Unmarshal([]byte(out), &doc); err != nil || code != 0 || !doc.Kept || doc.Words != "starts, and again" || len(doc.Proofs) != 9 || boots != 2 {
		t.Fatalf("exit %d after %d boots, %v: %+v\n%s", code, boots, err, doc, errs)
	}
	if p := verdict(doc.Proofs, lab.Starts); p.Verdict != lab.VerdictKept || !strings.Contains(p.Why, `said "whole login:`) {
		t.Errorf("%+v", p)
	}
	if p := verdict(doc.Proofs, lab.Again); !strings.Contains(p.Why, "as it was laid") {
		t.Errorf("%+v", p)
	}
	for _, want := range []string{"what it left is taken away", "2 boots", "boot 1 begins", "boot 1  done after"} {
		if !strings.Contains(errs, want) {
			t.Errorf("it did not say %q:\n%s", want, errs)
		}
	}
	b.left(1, 0, 0)
	if out := b.ok("image ls"); !strings.HasSuffix(out, "\tkept\n") {
		t.Errorf("image ls: %q", out)
	}
	if out := b.ok("image show whole"); !strings.Contains(out, "\tstarts, and again\t") {
		t.Errorf("image show: %q", out)
	}
	if out := b.ok("image show whole --json"); !strings.Contains(out, `"contract":{"ref":"whole@1","kept":true,"words":"starts, and again"`) {
		t.Errorf("image show --json: %q", out)
	}
}

// A disk whose system does not start breaks its contract, which is kept with it; a machine that never came that far proves nothing.
func TestContractOfADiskThatDoesNotStart(t *testing.T) {
	b := newBench(t)
	b.in = "bytes"
	b.ok("image import - --name whole --form disk")
	b.serve()
	wait := b.plays("contract-whole", func(m lab.Machine) {
		_, o, key := b.claim(m.Name)
		for _, r := range []lab.Report{{Rung: lab.RungWrite, Writing: true}, {Rung: lab.RungVerify, Proven: true}, {Rung: lab.RungHandover}} {
			r.Boot = o.Boot
			if _, err := b.desk.Report(t.Context(), key, r); err != nil {
				t.Error(err)
			}
		}
		if _, err := b.desk.Script(t.Context(), m.MACs[0], "10.0.2.15"); err != nil {
			t.Error(err)
		}
		if err := b.desk.Console(t.Context(), m.ID, []string{"No bootable device."}); err != nil {
			t.Error(err)
		}
	})
	out, errs, code := b.run("contract", "test", "whole")
	wait()
	if code != 4 || !strings.Contains(out, "starts\tbroken\tboot 1: the firmware found nothing to start") || !strings.Contains(errs, "whole@1 breaks its contract; starts: ") {
		t.Errorf("exit %d\n%s\n%s", code, out, errs)
	}
	if out := b.ok("image ls"); !strings.HasSuffix(out, "\tbroken\n") {
		t.Errorf("image ls: %q", out)
	}
	wait = b.plays("contract-whole", func(m lab.Machine) {
		_, o, key := b.claim(m.Name)
		if _, err := b.desk.Report(t.Context(), key, lab.Report{Boot: o.Boot, Error: "the disk is gone", Fatal: true}); err != nil {
			t.Error(err)
		}
	})
	out, errs, code = b.run("contract", "test", "whole")
	wait()
	if code != 4 || out != "" || !strings.Contains(errs, "boot 2 failed before its system was started: the disk is gone; nothing was proven") {
		t.Errorf("exit %d\n%s\n%s", code, out, errs)
	}
	b.left(1, 0, 0)
}

// Ctrl-C proves nothing, and leaves nothing.
func TestContractInterrupted(t *testing.T) {
	b := newBench(t)
	b.in = "bytes"
	b.ok("image import - --name whole --form disk")
	b.serve()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	wait := b.plays("contract-whole", func(m lab.Machine) {
		b.claim(m.Name)
		cancel()
	})
	var errs bytes.Buffer
	term := b.term
	term.Out, term.Err = io.Discard, &errs
	code := Run(ctx, Host{}, term, []string{"contract", "test", "whole", "--state", b.dir})
	wait()
	if code != 130 || !strings.Contains(errs.String(), "interrupted; nothing was proven, and what the test had made is taken away") {
		t.Errorf("exit %d %s", code, &errs)
	}
	b.left(1, 0, 0)
}

// Who waits is told for what.
func TestContractWaits(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	on := func(state lab.State, start lab.Start, rung lab.Rung) lab.Boot {
		b := lab.Boot{ID: 1, Machine: 1, State: state, Plan: lab.Plan{Start: start}}
		if rung != "" {
			b.Climbs = []lab.Climb{{Rung: rung, At: at}}
		}
		return b
	}
	s := lab.Snapshot{Machines: map[int64]lab.Machine{1: {ID: 1, Name: "vm"}}, Live: map[int64]lab.Live{}}
	for _, c := range []struct {
		b    lab.Boot
		own  bool
		want string
	}{
		{on(lab.Queued, lab.StartDisk, ""), false, "it waits: starts now"},
		{on(lab.Starting, lab.StartDisk, lab.RungPower), false, "the rung script is waited for, 2m0s at most"},
		{on(lab.Starting, lab.StartDisk, lab.RungInitrd), false, "the rung hello is waited for, 4m0s at most"},
		{on(lab.Handover, lab.StartDisk, lab.RungHandover), false, "10 minutes for a login prompt"},
		{on(lab.Handover, lab.StartMemory, lab.RungHandover), false, "10 minutes for its first line"},
		{on(lab.Handover, lab.StartKexec, lab.RungHandover), false, "nothing was heard of it yet"},
		{on(lab.Running, lab.StartKexec, lab.RungRun), true, "its own program is at work"},
		{on(lab.Running, lab.StartKexec, lab.RungRun), false, "the probe looks round"},
		{on(lab.Working, lab.StartKexec, lab.RungHash), false, "working on the rung hash"},
	} {
		if got := waitsFor(s, c.b, c.own); !strings.Contains(got, c.want) {
			t.Errorf("%s on %s: %q, want %q", c.b.State, c.b.Rung(), got, c.want)
		}
	}
	s.Live[1] = lab.Live{Progress: lab.Progress{Rung: lab.RungWrite, Done: 25 << 20, Of: 114 << 20}}
	if got := waitsFor(s, on(lab.Working, lab.StartDisk, lab.RungWrite), false); !strings.HasPrefix(got, "write: 26.2 MB of") {
		t.Error(got)
	}
}

// What a test's own boots have left goes with the test; that of others stays.
func TestContractForgetsItsResults(t *testing.T) {
	b := newBench(t)
	b.furnish()
	if err := b.desk.Collected(t.Context(), 1, []lab.Result{{Path: "contract", Bytes: 3, Sum: "x"}}); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		mine []int64
		left int
	}{{[]int64{2}, 1}, {[]int64{1}, 0}} {
		test := contractTest{desk: desk{Desk: b.desk}, name: "contract-root", mine: x.mine}
		if err := test.clean(); err != nil {
			t.Fatal(err)
		}
		s, err := b.desk.Watch(t.Context(), 0)
		if err != nil || len(s.Outs()) != x.left {
			t.Errorf("after the test of the boots %v: %v, %v; want %d", x.mine, s.Outs(), err, x.left)
		}
	}
}
