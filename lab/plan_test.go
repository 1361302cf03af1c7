package lab

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
)

// A stack that is resolved twice, by labs that have the same rows in another order, is the same plan; its parts lie on the
// disk in order, apart from one another, and end where it says.
func TestPlansAreDeterministic(t *testing.T) {
	b := furnished(t)
	b.image("home", "user", FormFiles, func(v *AddVersion) { v.Place = "/home/me" })
	s := b.now()
	r := rand.New(rand.NewPCG(3, 4))
	systems, layers := []string{"root", "deb", "memtest", "tree", "armroot"}, []string{"hpt", "me", "home", "work", "tools", "tools@1", "tmp", "notes", "twin", "strict"}
	resolved, refused := 0, map[string]int{}
	for range 3000 {
		st := Stack{Name: "s", Layers: named(systems[r.IntN(len(systems))]), Upper: []Upper{"", "", UpperDisk, UpperMemory}[r.IntN(4)], Params: map[string]string{}}
		for _, i := range r.Perm(len(layers))[:r.IntN(5)] {
			st.Layers = append(st.Layers, named(layers[i])...)
		}
		for i := range r.IntN(4) {
			st.Params[fmt.Sprint("p", i)] = fmt.Sprint(r.IntN(3))
			st.Cmdline += fmt.Sprintf(" p%d={p%d}", i, i)
			st.Files = append(st.Files, TextFile{Path: fmt.Sprint("/f", i), Text: fmt.Sprintf("{p%d} {machine} {mac}", i)})
		}
		if r.IntN(3) == 0 {
			st.Asks = Terms{Lazy: Optional, Results: Required}
		}
		m := b.machine([]string{"vm", "metal"}[r.IntN(2)])
		p, err := s.Plan(st, m, nil)
		turned := s
		turned.Images, turned.Versions, turned.Stacks = maps.Clone(s.Images), maps.Clone(s.Versions), maps.Clone(s.Stacks)
		q, again := turned.Plan(st, m, nil)
		if fmt.Sprint(err) != fmt.Sprint(again) || p.Digest != q.Digest || err == nil && p.Fingerprint() != q.Fingerprint() {
			t.Fatalf("%+v is\n%+v, %v, and then\n%+v, %v", st, p, err, q, again)
		}
		if err != nil {
			refused[FailingOf(err).Code]++
			continue
		}
		resolved++
		at, end := p.Places()
		text, _ := json.Marshal(p)
		var back Plan
		if err := json.Unmarshal(text, &back); err != nil || back.Digest != p.Digest || back.Fingerprint() != p.Fingerprint() {
			t.Fatalf("written down, %s is %+v, %v", text, back, err)
		}
		if p.Start == StartMemory {
			if end != 0 || p.Bytes() != 0 {
				t.Errorf("%v needs %d bytes of a disk", st.Layers, p.Bytes())
			}
			continue
		}
		free := p.Form.offset()
		for i, l := range p.Layers {
			if at[i] < free || i > 0 && at[i]%LayerUnit != 0 {
				t.Errorf("%v: layer %d begins at %d, and %d is the first free byte", st.Layers, i, at[i], free)
			}
			free = at[i] + l.Bytes
		}
		if free != end || p.Bytes() < end {
			t.Errorf("%v ends at %d, says %d, and needs %d bytes", st.Layers, free, end, p.Bytes())
		}
		disk := int64(8 * GiB)
		tail := TailOf(disk, TailDefault)
		if sc := p.scratch(disk, tail); sc.Bytes > 0 && (p.Upper != UpperDisk || sc.Offset < end || sc.Offset+sc.Bytes > tail.Offset || sc.Offset%LayerUnit != 0) {
			t.Errorf("%v: scratch %+v, layers end at %d, the tail begins at %d", st.Layers, sc, end, tail.Offset)
		}
	}
	if resolved < 500 || refused["E-REFUSED"] < 100 {
		t.Errorf("%d resolved, %v refused: the test reaches too little", resolved, refused)
	}
}

func TestParameters(t *testing.T) {
	b := furnished(t)
	st := Stack{Name: "s", Layers: named("root", "hpt"), Cmdline: "pages={pages} {{x} a={a}", Params: map[string]string{"pages": "0", "a": ""}, Files: []TextFile{{Path: "/etc/hostname", Text: "{machine} {mac} {pages}\n"}}}
	b.must(PutStack{Stack: st})
	p, err := b.now().ResolveOn("s", b.machine("vm"), map[string]string{"pages": "512"})
	if err != nil || p.Cmdline != "pages=512 {x} a=" || p.Files[0].Text != "vm "+string(vmMAC)+" 512\n" {
		t.Errorf("it is %q, %+v, %v", p.Cmdline, p.Files, err)
	}
	q, _ := b.now().ResolveOn("s", b.machine("vm"), nil)
	if q.Digest == p.Digest || q.Params["pages"] != "0" {
		t.Error("another value is the same plan")
	}
	for words, set := range map[string]map[string]string{
		"it has no parameter \"page\"": {"page": "1"}, "a blank, a quote or a brace": {"pages": "1 init=/bin/sh"}, "more than 256": {"pages": strings.Repeat("1", 257)}, "parameter pages": {"pages": "{a}"},
	} {
		b.refused(Queue{Machine: "vm", Stack: "s", Set: set}, ErrInvalid, words)
	}
	for words, line := range map[string]string{"{nope} is no parameter": "{nope}", "{pages": "a={pages"} {
		bad := st
		bad.Name, bad.Cmdline = "t", line
		b.refused(PutStack{Stack: bad}, ErrInvalid, words)
	}
}

// How a system can start follows from its images, and from what is known of the machine.
func TestStarts(t *testing.T) {
	b := furnished(t)
	s := b.now()
	for _, x := range []struct {
		layers string
		start  Start
		failed string
		want   Start
		auto   bool
	}{
		{"root", "", "", StartPivot, true}, {"root", StartPivot, "", StartPivot, false}, {"root hpt", "", "", StartKexec, true}, {"root hpt", "", "hung", StartNetboot, true},
		{"root hpt", StartNetboot, "", StartNetboot, false}, {"root hpt", StartKexec, "hung", StartKexec, false}, {"deb", "", "", StartDisk, true}, {"memtest", "", "", StartMemory, true},
	} {
		m := b.machine("vm")
		m.Kexec.Failed = x.failed
		p, err := s.Plan(Stack{Name: "s", Layers: named(strings.Fields(x.layers)...), Start: x.start}, m, nil)
		if err != nil || p.Start != x.want || p.Auto != x.auto {
			t.Errorf("%s by %q starts by %s (auto %v), %v", x.layers, x.start, p.Start, p.Auto, err)
		}
	}
	for _, x := range []struct{ layers, start, words string }{
		{"root", "kexec", "cannot start by kexec; it can by pivot"}, {"root hpt", "pivot", "take one of them out"}, {"root hpt", "disk", "with a kernel cannot start by disk"},
		{"deb", "netboot", "it can by disk"}, {"memtest", "disk", "it can by memory"},
	} {
		_, err := s.Plan(Stack{Name: "s", Layers: named(strings.Fields(x.layers)...), Start: Start(x.start)}, Machine{}, nil)
		wantError(t, x.layers+" by "+x.start, err, ErrRefused, x.words)
	}
}

// A boot that only lays makes a disk equal, and starts nothing.
func TestLay(t *testing.T) {
	b := furnished(t)
	b.must(PutStack{Stack: Stack{Name: "s", Layers: named("root", "hpt", "tools")}})
	id := b.must(Queue{Machine: "vm", Stack: "s", Lay: true}).Boots[0].ID
	b.take(id, Working, 1)
	b.report(1, Report{Boot: id, Rung: RungWrite, Writing: true})
	b.report(1, Report{Boot: id, Rung: RungHandover, Proven: true})
	b.in(id, Done, "laid and proven")
	h := b.machine("vm").Holds[0]
	if h.Dirty || h.Ref != (Ref{"root", 1}) || len(h.Over) != 2 || h.Over[0].Ref.Name != "hpt" || h.Over[1].Offset%LayerUnit != 0 {
		t.Errorf("the disk holds %+v", h)
	}
	for _, j := range b.now().Judge(b.now().Stacks["s"], nil).Machines {
		if j.Machine == "vm" && j.Moves != 0 {
			t.Errorf("%d bytes are still to move", j.Moves)
		}
	}
	if r := b.report(1, Report{}); r.Orders == nil || r.Orders.Do != DoWait {
		t.Errorf("the agent that has laid a disk is told %+v", r.Orders)
	}
	next := b.must(Queue{Machine: "vm", Stack: "s"}).Boots[0].ID
	if o := b.now().Live[b.machine("vm").ID].Order; o != "" {
		t.Errorf("the machine is to be turned %q, its agent is there", o)
	}
	if r := b.report(1, Report{}); r.Orders == nil || r.Orders.Do != DoBoot || r.Orders.Boot != next {
		t.Errorf("the agent is told %+v", r)
	}
	b.in(next, Working)

	b.must(PutStack{Stack: Stack{Name: "live", Layers: named("memtest")}})
	b.refused(Queue{Machine: "vm", Stack: "live", Lay: true}, ErrRefused, "lays nothing on a disk")
}
