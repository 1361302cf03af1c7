package lab

import (
	"strings"
	"testing"
	"time"
)

// While a flash goes on its time is that until now, and what it is on is said.
func TestFlashing(t *testing.T) {
	b := newBench(t)
	id := b.queue("vm", "deb")
	b.take(id, Working, 1)
	begun := b.clock
	b.report(1, Report{Boot: id, Rung: RungHash})
	b.clock = begun.Add(10 * time.Second)
	b.report(1, Report{Boot: id, Rung: RungVerify})
	x := b.boot(id)
	for _, at := range []time.Duration{10 * time.Second, 70 * time.Second} {
		if sum, over := x.Flashing(begun.Add(at)); sum != at || over {
			t.Errorf("after %s: %s, over %v", at, sum, over)
		}
	}
	if last := len(x.Climbs) - 1; !x.OnIt(last) || x.OnIt(last-1) {
		t.Errorf("it is on its last rung, and on no other: %+v", x.Climbs)
	}
	b.clock = begun.Add(40 * time.Second)
	b.must(Stop{Boot: id})
	b.report(1, Report{Boot: id, Revoked: true})
	x = b.boot(id)
	if sum, over := x.Flashing(begun.Add(time.Hour)); sum != 40*time.Second || !over || x.OnIt(len(x.Climbs)-1) {
		t.Errorf("it was over after 40 s: %s, over %v", sum, over)
	}
}

// While nobody serves the lab, nothing starts now, and a virtual machine's boot does not go on.
func TestStill(t *testing.T) {
	b := newBench(t)
	first, second := b.queue("vm", "deb"), b.queue("vm", "deb")
	b.take(first, Handover, 1)
	metal := b.queue("metal", "deb")
	b.paper.loaded = b.now()
	b.paper.loaded.Live = nil
	l, err := Open(t.Context(), Config{Book: b.paper, Now: func() time.Time { return b.clock }, Secret: secret, Still: true})
	if err != nil {
		t.Fatal(err)
	}
	look := func() Snapshot {
		s, err := l.Watch(t.Context(), 0)
		if err != nil || !s.Still {
			t.Fatalf("still %v, %v", s.Still, err)
		}
		return s
	}
	s := look()
	for id, want := range map[int64]string{first: "no lab runs, and its virtual machine stopped with it", second: "after boot", metal: ""} {
		if got := s.Why(s.Boots[id]); !strings.Contains(got, want) {
			t.Errorf("boot %d waits for %q, want %q", id, got, want)
		}
		if broken := s.Broken(s.Boots[id]); broken != (id == first) {
			t.Errorf("boot %d was going on in a virtual machine: %v", id, broken)
		}
	}
	if _, err := l.Say(t.Context(), AddMachine{Name: "vm2", Virtual: &Virtual{}}); err != nil {
		t.Fatal(err)
	}
	ch, err := l.Say(t.Context(), Queue{Machine: "vm2", Stack: "deb"})
	if err != nil {
		t.Fatal(err)
	}
	if got := look().Why(ch.Boots[0]); got != "no lab runs; it starts with carte serve" {
		t.Errorf("it waits for %q", got)
	}
	for _, v := range []Verb{
		AddVersion{Version: Version{Image: "lent", Root: b.now().Versions["deb@1"].Root, Bytes: 4096}, Kind: "temporary", Form: FormFiles, Dies: b.clock.Add(time.Minute)},
		PutStack{Stack: Stack{Name: "lent", Layers: []Ref{{Name: "tree"}, {Name: "lent"}}}},
	} {
		if _, err := l.Say(t.Context(), v); err != nil {
			t.Fatal(err)
		}
	}
	b.clock = b.clock.Add(time.Hour)
	if _, err := l.Say(t.Context(), Queue{Machine: "vm2", Stack: "lent"}); err == nil || !strings.Contains(err.Error(), `image lent died`) || !strings.Contains(err.Error(), `"lifetime"`) {
		t.Errorf("what has died is booted: %v", err)
	}
	b.reopen()
	if b.now().Still || b.now().Broken(b.boot(first)) {
		t.Error("a lab that is served stands still")
	}
}
