package lab

import (
	"strings"
	"testing"
	"time"
)

// A system is seen to run by the first word of its shim, says its numbers, and ends its boot itself.
func TestShim(t *testing.T) {
	b := furnished(t)
	b.must(PutStack{Stack: Stack{Name: "s", Layers: named("root", "work"), Params: map[string]string{"n": "1"}}})
	id := b.must(Queue{Machine: "vm", Stack: "s", Set: map[string]string{"n": "2"}}).Boots[0].ID
	b.take(id, Working, 1)
	if _, err := b.Report(t.Context(), agentKey(1), Report{Boot: id, Shim: true}); err == nil {
		t.Error("a shim speaks while the agent works")
	}
	b.report(1, Report{Boot: id, Rung: RungWrite, Writing: true})
	b.report(1, Report{Boot: id, Rung: RungHandover, Proven: true})
	b.in(id, Handover)
	_, err := b.Running(t.Context(), agentKey(1))
	wantError(t, "results before it runs", err, ErrDenied)
	_, err = b.Report(t.Context(), agentKey(9), Report{Boot: id, Shim: true})
	wantError(t, "a stranger's shim", err, ErrDenied)
	b.report(1, Report{Boot: id, Shim: true, Lines: []string{"[ 1.5] ::carte metric pages=512 n", "noise", "::carte metric bad", "a\x1b[2J::carte done"}})
	b.in(id, Running)
	if x := b.boot(id); x.Metrics["pages"].Value != 512 || x.Rung() != RungRun || x.Plan.Params["n"] != "2" {
		t.Errorf("the boot is %+v", x)
	}
	if x, err := b.Running(t.Context(), agentKey(1)); err != nil || x.ID != id {
		t.Errorf("its key is for boot %d, %v", x.ID, err)
	}
	b.report(1, Report{Boot: id, Shim: true, Lines: []string{"::carte done"}})
	b.in(id, Done)
	if r := b.report(1, Report{Boot: id, Shim: true}); r.Revoke != "" || r.Orders != nil {
		t.Errorf("after the end it is told %+v", r)
	}
	if x, err := b.Running(t.Context(), agentKey(1)); err != nil || x.ID != id {
		t.Errorf("what it leaves after its end is boot %d's, %v", x.ID, err)
	}
	if err := b.Collected(t.Context(), id, []Result{{Path: "late", Bytes: 1}}); err != nil || len(b.boot(id).Results) != 1 {
		t.Errorf("what it left after its end is %+v, %v", b.boot(id).Results, err)
	}
	next := b.queue("vm", "s")
	b.in(next, Starting)
	if r := b.report(1, Report{Boot: id, Shim: true}); r.Orders == nil || r.Orders.Do != DoLocal || !strings.Contains(r.Orders.Why, "is next") {
		t.Errorf("with another boot next it is told %+v", r)
	}
}

// A boot that ends with its system's first word still takes home what that leaves, until the machine is given something else.
func TestResultsAfterTheFirstWord(t *testing.T) {
	b := furnished(t)
	b.must(PutStack{Stack: Stack{Name: "s", Layers: named("root"), Until: RungRun}})
	id := b.queue("vm", "s")
	b.take(id, Working, 1)
	b.report(1, Report{Boot: id, Rung: RungWrite, Writing: true})
	b.report(1, Report{Boot: id, Rung: RungHandover, Proven: true})
	b.report(1, Report{Boot: id, Shim: true})
	b.in(id, Done)
	if x, err := b.Running(t.Context(), agentKey(1)); err != nil || x.ID != id {
		t.Errorf("what it leaves is boot %d's, %v", x.ID, err)
	}
	next := b.queue("vm", "s")
	b.take(next, Working, 2)
	_, err := b.Running(t.Context(), agentKey(1))
	wantError(t, "the system of the boot before", err, ErrDenied)
}

func TestShimIsCalledBack(t *testing.T) {
	b := furnished(t)
	id := b.runs("vm", Stack{Name: "s", Layers: named("root")}).ID
	b.must(Stop{Boot: id, Reason: "enough"})
	if r := b.report(1, Report{Boot: id, Shim: true}); r.Revoke != "enough" {
		t.Errorf("it is told %+v", r)
	}
	b.in(id, Running)
	b.report(1, Report{Boot: id, Shim: true, Revoked: true})
	b.in(id, Revoked, "enough")
	_, err := b.Report(t.Context(), agentKey(1), Report{Boot: id, Shim: true})
	wantError(t, "a shim of a boot that was called back", err, ErrDenied)
	// One that does not answer is switched off.
	id = b.queue("vm", "s")
	b.take(id, Working, 2)
	b.report(2, Report{Boot: id, Rung: RungWrite, Writing: true})
	b.report(2, Report{Boot: id, Rung: RungHandover, Proven: true})
	b.report(2, Report{Boot: id, Shim: true})
	b.must(Stop{Boot: id})
	b.pass(RevokeGrace + time.Second)
	b.in(id, Revoked)
	if o := b.now().Live[b.machine("vm").ID].Order; o != "off" {
		t.Errorf("the machine's order is %q", o)
	}
}

// A shim that says what broke fails its boot; it is not tried again, because the user's system ran.
func TestShimFails(t *testing.T) {
	b := furnished(t)
	id := b.runs("vm", Stack{Name: "s", Layers: named("root")}).ID
	b.report(1, Report{Boot: id, Shim: true, Error: "out of\x1b[2J memory"})
	b.in(id, Failed, "out of")
	if b.boot(id).Strikes != 0 || strings.Contains(b.boot(id).Reason, "\x1b") {
		t.Errorf("it is %+v", b.boot(id))
	}
}

// A kernel that was replaced is remembered, and so is one that could not be: then the server loads it.
func TestKexecIsRemembered(t *testing.T) {
	b := furnished(t)
	b.must(PutStack{Stack: Stack{Name: "k", Layers: named("root", "hpt")}})
	id := b.queue("vm", "k")
	b.take(id, Working, 1)
	b.report(1, Report{Boot: id, Rung: RungWrite, Writing: true})
	b.report(1, Report{Boot: id, Rung: RungHandover, Proven: true})
	b.report(1, Report{Boot: id, Shim: true})
	if m := b.machine("vm"); m.Kexec.Proven.IsZero() || m.Kexec.Failed != "" {
		t.Errorf("after it worked: %+v", m.Kexec)
	}
	b.must(Stop{Boot: id})
	b.pass(RevokeGrace + time.Second)

	m := b.machine("vm")
	m.Kexec = KexecRecord{}
	b.change(m)
	id = b.queue("vm", "k")
	b.take(id, Working, 2)
	b.report(2, Report{Boot: id, Rung: RungWrite, Writing: true})
	b.report(2, Report{Boot: id, Rung: RungHandover, Proven: true})
	b.in(id, Handover)
	run, _ := StepOf(RungRun)
	b.pass(run.Limit + time.Second)
	if m := b.machine("vm"); m.Kexec.Failed == "" || !m.Kexec.Proven.IsZero() {
		t.Errorf("after it did not: %+v", m.Kexec)
	}
	if s := b.script(vmMAC); s.Do != ScriptSystem && b.boot(id).Plan.Start != StartNetboot {
		t.Errorf("then it gets %+v, and the plan starts by %s", s, b.boot(id).Plan.Start)
	}
	if p, err := b.now().ResolveOn("k", b.machine("vm"), nil); err != nil || p.Start != StartNetboot {
		t.Errorf("the next plan starts by %s, %v", p.Start, err)
	}
}

// An agent says that the kernel refuses: the boot goes on, by the server, and knows why.
func TestKexecRefused(t *testing.T) {
	for start, want := range map[Start]Start{"": StartNetboot, StartKexec: StartKexec} {
		b := furnished(t)
		b.must(PutStack{Stack: Stack{Name: "k", Layers: named("root", "hpt"), Start: start}})
		id := b.queue("vm", "k")
		b.take(id, Working, 1)
		b.report(1, Report{Boot: id, Rung: RungWrite, Writing: true})
		b.report(1, Report{Boot: id, Rung: RungVerify, NoKexec: "not permitted"})
		b.in(id, Working)
		if x, m := b.boot(id), b.machine("vm"); x.NoKexec != "not permitted" || m.Kexec.Failed != "not permitted" || x.Plan.Start != want {
			t.Errorf("start %q: it starts by %s, for %q; of its machine is known %+v", start, x.Plan.Start, x.NoKexec, m.Kexec)
		}
		if start == "" {
			b.report(1, Report{Boot: id, Rung: RungHandover, Proven: true})
			if s := b.script(vmMAC); s.Do != ScriptSystem || b.boot(id).Strikes > 0 {
				t.Errorf("then it gets %+v", s)
			}
		}
	}
}

// A second stage that cannot put its system together says so in its shim's name: no system ran, and a kernel was replaced.
func TestSecondStageFails(t *testing.T) {
	b := furnished(t)
	b.must(PutStack{Stack: Stack{Name: "k", Layers: named("root", "hpt")}})
	id := b.queue("vm", "k")
	b.take(id, Working, 1)
	b.report(1, Report{Boot: id, Rung: RungWrite, Writing: true})
	b.report(1, Report{Boot: id, Rung: RungHandover, Proven: true})
	for range 2 { // the answer was lost
		b.report(1, Report{Boot: id, Shim: true, Error: "no overlay", Lines: []string{"::carte done"}})
		b.in(id, Failed, "no overlay")
	}
	if x := b.boot(id); x.Rung() != RungHandover || b.machine("vm").Kexec.Proven.IsZero() {
		t.Errorf("it is on %s, kexec is %+v", x.Rung(), b.machine("vm").Kexec)
	}
}
