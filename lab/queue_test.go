package lab

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"carte/lab/chunk"
)

func (b *bench) order(machine string) string {
	var ids []string
	for _, x := range b.now().QueueOf(b.machine(machine).ID) {
		ids = append(ids, fmt.Sprint(x.ID))
	}
	return strings.Join(ids, " ")
}

func TestQueue(t *testing.T) {
	b := newBench(t)
	for range 4 {
		b.queue("vm", "deb")
	}
	b.queue("metal", "deb")
	b.in(1, Starting)
	wantOrder := func(want string) {
		t.Helper()
		if got := b.order("vm"); got != want {
			t.Errorf("the queue is %s, want %s", got, want)
		}
	}
	wantOrder("2 3 4")
	for id, want := range map[int64]string{1: "", 2: "after boot 1 (starting) on vm", 3: "after boot 1 (starting) on vm", 5: ""} {
		if got := b.now().Why(b.boot(id)); got != want {
			t.Errorf("boot %d waits %q, want %q", id, got, want)
		}
	}
	b.must(MoveBoot{Boot: 4, Before: 2})
	wantOrder("4 2 3")
	b.must(MoveBoot{Boot: 4})
	wantOrder("2 3 4")
	b.must(MoveBoot{Boot: 3, Machine: "metal"})
	wantOrder("2 4")
	if got := b.order("metal"); got != "3" {
		t.Errorf("metal's queue is %s", got)
	}
	b.refused(MoveBoot{Boot: 1}, ErrBusy, "only a waiting boot moves")
	b.refused(MoveBoot{Boot: 2, Before: 3}, ErrNotFound, "boot 3 does not wait for vm")
	b.refused(MoveBoot{Boot: 2, Before: 2}, ErrNotFound)
	b.refused(MoveBoot{Boot: 99}, ErrNotFound)
	b.refused(Queue{Machine: "vm", Stack: "no"}, ErrNotFound, "deb", "tree")
	b.refused(Queue{Machine: "no", Stack: "deb"}, ErrNotFound, "vm")
	// What was struck goes to the head again, wherever the others were moved.
	b.take(1, Working, 1)
	b.must(MoveBoot{Boot: 4, Before: 2})
	b.report(1, Report{Boot: 1, Error: "read error"})
	b.in(1, Starting)
	wantOrder("4 2")
	b.must(Stop{Boot: 1})
	b.in(4, Starting)
	b.must(Retry{Boot: 1})
	b.take(4, Working, 2)
	b.report(2, Report{Boot: 4, Error: "read error"})
	b.in(4, Starting) // not the boot that was retried meanwhile
}

func TestThreeStrikes(t *testing.T) {
	b := newBench(t)
	id, next := b.queue("vm", "deb"), b.queue("vm", "deb")
	for i := range MaxStrikes {
		b.take(id, Working, i)
		b.report(i, Report{Boot: id, Rung: RungFetch, Error: "no chunk\x1b[2J"})
		if i < MaxStrikes-1 {
			b.in(id, Starting)
			if x := b.boot(id); x.Strikes != i+1 || x.Attempt != i+2 || x.Rung() != "" {
				t.Errorf("after strike %d: %+v", i+1, x)
			}
		}
	}
	b.in(id, Failed, "no chunk (3 attempts)")
	if m := b.machine("vm"); !strings.Contains(m.Parked, "failed 3 times") {
		t.Errorf("the machine is not parked: %q", m.Parked)
	}
	b.in(next, Queued)
	if why := b.now().Why(b.boot(next)); !strings.Contains(why, "vm is parked") {
		t.Errorf("boot %d waits %q", next, why)
	}
	if s := b.script(vmMAC); s.Do != ScriptLocal || !strings.Contains(s.Why, "parked") {
		t.Errorf("a parked machine gets %+v", s)
	}
	b.must(Retry{Boot: next}) // lifts the parking only
	b.in(next, Starting)
	again := b.must(Retry{Boot: id}).Boots
	if x := again[len(again)-1]; x.State != Queued || x.Plan.Digest != b.boot(id).Plan.Digest || x.Strikes != 0 {
		t.Errorf("boot %d once more is %+v", id, x)
	}
	b.refused(Retry{Boot: next}, ErrBusy, "still starting")
	b.refused(Retry{Boot: 99}, ErrNotFound)
}

func TestFatalIsNotTriedAgain(t *testing.T) {
	b := newBench(t)
	id := b.queue("vm", "deb")
	b.take(id, Working, 1)
	b.report(1, Report{Boot: id, Error: "not enough memory", Fatal: true})
	b.in(id, Failed, "not enough memory")
	if b.machine("vm").Parked != "" {
		t.Error("the machine is parked for one failure")
	}
}

func TestRetryNeedsWhatItNeeds(t *testing.T) {
	b := newBench(t)
	id := b.queue("metal", "deb")
	b.must(Stop{Boot: id})
	b.must(ArmDisk{Machine: "metal", Disk: "S1", Disarm: true})
	b.refused(Retry{Boot: id}, ErrRefused, "no disk of metal may be written")
	b.must(ArmDisk{Machine: "metal", Disk: "S1"})
	b.must(RemoveStack{Name: "deb"})
	b.must(RemoveImage{Ref: Ref{Name: "deb"}, Confirm: "deb"})
	b.refused(Retry{Boot: id}, ErrNotFound, "deb@1", "removed")
	b.must(AddVersion{Version: Version{Image: "deb", Root: chunk.ID{9}, Bytes: 5}, Kind: "system", Form: FormDisk})
	b.refused(Retry{Boot: id}, ErrNotFound, "deb@1", "removed") // other bytes of the same name
	b.must(Ignore{Machine: "metal"})
	b.refused(Retry{Boot: id}, ErrRefused, "metal is ignored")
	b.must(Adopt{Machine: "metal", Name: "metal"}) // under the name it had
	b.must(Forget{Machine: "metal", Confirm: "metal"})
	b.refused(Retry{Boot: id}, ErrNotFound, "forgotten")
}

func TestStopInEveryState(t *testing.T) {
	for _, c := range []struct {
		state State
		stack string
		want  State
		order string
	}{
		{Queued, "deb", Revoked, ""}, {Starting, "deb", Revoked, "off"}, {Working, "deb", Working, ""}, {Handover, "deb", Revoked, "off"}, {Running, "tree", Revoked, "off"},
	} {
		b := newBench(t)
		first := b.queue("vm", c.stack)
		id := first
		if c.state == Queued {
			id = b.queue("vm", c.stack)
		} else {
			b.take(id, c.state, 1)
			live := b.now().Live[b.boot(id).Machine]
			if err := b.Powered(t.Context(), Powered{Machine: live.Machine, Order: live.Order, State: "on"}); err != nil {
				t.Fatal(err)
			}
		}
		b.must(Stop{Boot: id, Reason: "lunch\x07"})
		b.in(id, c.want)
		if x := b.boot(id); c.want.Final() && (x.Reason != "lunch" || x.Ended.IsZero()) {
			t.Errorf("stopped while %s: %+v", c.state, x)
		}
		if live := b.now().Live[b.boot(id).Machine]; c.state != Queued && live.Order != c.order {
			t.Errorf("stopped while %s: the machine is told %q, want %q", c.state, live.Order, c.order)
		}
		if c.want.Final() {
			b.refused(Stop{Boot: id}, ErrBusy, "is over")
		}
		if c.state == Queued {
			b.in(first, Starting)
		}
	}
}

func TestRevocation(t *testing.T) {
	b := newBench(t)
	polite, silent := b.queue("vm", "deb"), b.queue("metal", "deb")
	b.take(polite, Working, 1)
	b.take(silent, Working, 2)
	for _, id := range []int64{polite, silent} {
		b.must(Stop{Boot: id, Reason: "lunch"})
		b.must(Stop{Boot: id, Reason: "twice"})
		b.in(id, Working)
	}
	if r := b.report(1, Report{Boot: polite, Rung: RungWrite}); r.Revoke != "lunch" {
		t.Errorf("the agent is told %+v", r)
	}
	b.report(1, Report{Boot: polite, Revoked: true})
	b.in(polite, Revoked, "lunch")
	b.report(2, Report{Boot: silent, Rung: RungWrite})
	b.report(2, Report{Boot: silent, Rung: RungWrite, Moved: Moved{Read: 9, Written: 7}})
	b.pass(RevokeGrace)
	b.in(silent, Working)
	b.pass(time.Second)
	b.in(silent, Revoked, "lunch", "did not answer in time")
	if x := b.now().Boots[silent]; x.Moved.Written != 7 {
		t.Errorf("what it wrote last is not in the record: %+v", x.Moved)
	}
	if live := b.now().Live[b.machine("metal").ID]; live.Order != "off" || live.Agent {
		t.Errorf("%+v", live)
	}
	_, err := b.Report(t.Context(), agentKey(2), Report{Boot: silent})
	wantError(t, "the agent that came too late", err, ErrDenied)
}

func TestClearingAMachine(t *testing.T) {
	b := newBench(t)
	active, waiting := b.queue("vm", "deb"), b.queue("vm", "deb")
	b.refused(Forget{Machine: "vm", Confirm: "vm"}, ErrBusy, "carte boot stop 1")
	b.refused(Ignore{Machine: "vm"}, ErrBusy, "carte boot stop 1")
	b.must(SetMachine{Machine: "vm", Values: map[string]string{"note": "x"}})
	b.must(Stop{Boot: waiting})
	b.must(Stop{Boot: active})
	b.refused(Forget{Machine: "vm"}, ErrConfirm, "--confirm vm")
	last := b.now().LastMachine
	b.must(Forget{Machine: "vm", Confirm: "vm"})
	b.must(AddMachine{Name: "vm", Virtual: &Virtual{}})
	if id := b.machine("vm").ID; id != last+1 {
		t.Errorf("the new machine is number %d, want %d", id, last+1)
	}
	if _, ok := b.now().Boots[active]; !ok {
		t.Error("the history went with the machine")
	}
}
