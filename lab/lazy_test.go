package lab

import (
	"slices"
	"testing"

	"carte/lab/chunk"
)

// What is to come after the start is written down as not proven until somebody beside the system says that it is there;
// until then, and while the system runs, it may be read.
func TestLazyLayers(t *testing.T) {
	b := newBench(t)
	for i, v := range []AddVersion{
		{Version: Version{Image: "root", Offers: Terms{Lazy: Optional, Heartbeat: Optional}}, Kind: "system", Form: FormTree},
		{Version: Version{Image: "data", Offers: Terms{Lazy: Optional}}, Kind: "project", Form: FormFiles},
		{Version: Version{Image: "dull"}, Kind: "project", Form: FormFiles},
		{Version: Version{Image: "hpt", Offers: Terms{Lazy: Optional}}, Kind: "system", Form: FormKernel},
	} {
		v.Root, v.Bytes, v.Content = chunk.Sum([]byte{byte(i), 1}), 64<<20, 10<<20
		b.must(v)
	}
	layers := []Ref{{Name: "root"}, {Name: "data"}, {Name: "dull"}, {Name: "hpt"}}
	b.must(PutStack{Stack: Stack{Name: "st", Layers: layers, Asks: Terms{Lazy: Optional}, Start: StartNetboot}})
	id := b.queue("vm", "st")
	b.take(id, Starting, 1)
	o := b.claim(b.script(vmMAC), 1, usual)
	var lazy []bool
	for _, w := range o.Writes {
		lazy = append(lazy, w.Lazy)
	}
	if want := []bool{true, true, false, false}; !slices.Equal(lazy, want) {
		t.Fatalf("lazy layers %v, want %v", lazy, want)
	}
	hold := func() Holding { return b.machine("vm").Holds[0] }
	b.report(1, Report{Boot: id, Rung: RungWrite, Writing: true})
	b.report(1, Report{Boot: id, Rung: RungVerify, Proven: true, Absent: 77 << 20})
	if h := hold(); h.Dirty || h.Absent != 77<<20 || b.machine("vm").proven(b.boot(id)) {
		t.Errorf("it holds %+v", h)
	}
	b.report(1, Report{Boot: id, Rung: RungHandover})
	b.in(id, Handover)
	s := b.script(vmMAC)
	run := b.claim(s, 2, usual)
	if run.Do != DoRun || !run.Writes[0].Lazy {
		t.Errorf("the second stage is told %+v", run)
	}
	roots, err := b.Allowed(t.Context(), agentKey(2))
	if err != nil || !slices.Equal(roots, []chunk.ID{o.Writes[0].Root, o.Writes[1].Root}) {
		t.Errorf("it may read %v, %v", roots, err)
	}
	b.report(2, Report{Boot: id, Shim: true, Proven: true})
	b.in(id, Handover) // that says nothing of the system
	if h := hold(); h.Absent != 0 || !b.machine("vm").proven(b.boot(id)) {
		t.Errorf("it holds %+v", h)
	}
	if run := b.claim(s, 2, usual); run.Writes[0].Lazy {
		t.Error("what is there counts as still to come")
	}
	b.report(2, Report{Boot: id, Shim: true})
	b.in(id, Running)
	b.wrote("lazy layers have arrived")
}

// Where no system follows, nothing is left for later.
func TestLazyWantsASystem(t *testing.T) {
	b := newBench(t)
	b.must(AddVersion{Version: Version{Image: "root", Root: chunk.Sum([]byte{7}), Bytes: 64 << 20, Content: 10 << 20, Offers: Terms{Lazy: Optional}}, Kind: "system", Form: FormTree})
	b.must(PutStack{Stack: Stack{Name: "st", Layers: []Ref{{Name: "root"}}, Asks: Terms{Lazy: Optional}}})
	p, err := b.now().Resolve("st")
	if err != nil || !p.writes()[0].Lazy {
		t.Errorf("not lazy: %v, %+v", err, p.writes())
	}
	p.Start = StartLay
	if p.writes()[0].Lazy {
		t.Error("a layer of what only lies there is lazy")
	}
}
