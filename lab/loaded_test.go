package lab

import (
	"testing"
	"time"

	"carte/lab/chunk"
)

// memoryBench is a bench that has a kernel which runs in memory, as stack live.
func memoryBench(t *testing.T) *bench {
	b := newBench(t)
	b.must(AddVersion{Version: Version{Image: "live", Root: chunk.ID{7}, Bytes: 1 << 20}, Kind: "system", Form: FormKernel})
	b.must(PutStack{Stack: Stack{Name: "live", Layers: []Ref{{Name: "live"}}}})
	return b
}

func (b *bench) loaded(id int64) {
	b.t.Helper()
	if err := b.Loaded(b.t.Context(), id); err != nil {
		b.t.Fatal(err)
	}
}

func TestFirstWord(t *testing.T) {
	for _, c := range []struct {
		what  string
		until Rung
		lines []string
		want  State
		words string
	}{
		{"nothing", "", nil, Starting, ""},
		{"iPXE alone", "", []string{"http://10.0.2.2/system/kernel?m=1... ok", StartMark}, Handover, ""},
		{"before the mark", "", []string{"Memtest86+", StartMark}, Handover, ""},
		{"behind the mark", "", []string{"x " + StartMark, "\x1b[2J\x1b[H", " -- ", "\x1b[1;1HMemtest86+ v6.10"}, Done, ""},
		{"a line that was cut", "", []string{StartMark, "carte: what follo\x1b[2J"}, Handover, ""},
		{"behind a line that was cut", "", []string{StartMark, "carte: what follo\x1b[2Jhello"}, Done, ""},
		{"iPXE cannot", "", []string{StartMark, "Could not boot: Exec format error (http://ipxe.org/2e008081)", StartRest, "carte: its kernel was not started"}, Handover, ""},
		{"it says so itself", "", []string{StartMark, "::carte fail no memory"}, Failed, "no memory"},
		{"a number comes first", RungCollect, []string{StartMark, "::carte metric x=1", "Hello"}, Running, ""},
		{"until it is done", RungCollect, []string{StartMark, "Hello", "::carte done"}, Done, ""},
	} {
		b := memoryBench(t)
		b.must(PutStack{Stack: Stack{Name: "live", Layers: []Ref{{Name: "live"}}, Until: c.until}, Edit: true})
		id := b.queue("vm", "live")
		if s := b.script(vmMAC); s.Do != ScriptSystem || s.Token != "" || s.Boot != id || s.Plan.Form != FormKernel {
			t.Fatalf("%s: script %+v", c.what, s)
		}
		b.say("vm", c.lines...)
		b.in(id, c.want, c.words)
		b.loaded(id) // the server hears of the last byte later than the console of the first
		if c.want != Starting {
			b.in(id, c.want, c.words)
		}
	}
}

func TestLoaded(t *testing.T) {
	b := memoryBench(t)
	id := b.queue("vm", "live")
	for range 3 { // the wire broke: it is given again
		if s := b.script(vmMAC); s.Do != ScriptSystem {
			t.Fatalf("script %+v", s)
		}
	}
	if _, _, err := b.SeenMachine(t.Context(), vmMAC, RungKernel, "", false); err != nil {
		t.Fatal(err)
	}
	b.loaded(id)
	b.in(id, Handover)
	if r := b.boot(id).Rung(); r != RungHandover {
		t.Errorf("it is on %s", r)
	}
	for n := range MaxStrikes { // it dies each time
		if x := b.boot(id); x.Strikes != n || x.State.Final() {
			t.Fatalf("after %d deaths: %+v", n, x)
		}
		b.loaded(id)
		b.script(vmMAC)
	}
	b.in(id, Failed, "without a sign of life")
	b.must(Retry{Boot: id})

	metal := b.queue("metal", "live") // whose console nobody reads
	b.script(metalMAC)
	b.in(metal, Starting)
	b.loaded(metal)
	b.in(metal, Done, "its kernel was loaded")
}

func TestUnloaded(t *testing.T) {
	b := memoryBench(t)
	first, next := b.queue("metal", "live"), b.queue("metal", "deb")
	unloaded := func(id int64, final bool) {
		if err := b.Unloaded(t.Context(), id, "iPXE cannot start it", final); err != nil {
			t.Fatal(err)
		}
	}
	b.script(metalMAC)
	unloaded(first, false)
	b.in(first, Starting)
	if x := b.boot(first); x.Strikes != 1 || x.Attempt != 2 || b.now().Live[x.Machine].Order != "" {
		t.Errorf("%+v", x)
	}
	unloaded(first, true)
	b.in(first, Failed, "iPXE cannot start it")
	b.in(next, Starting)
	if s := b.script(metalMAC); s.Do != ScriptAgent || s.Boot != next {
		t.Errorf("script %+v", s)
	}
	unloaded(first, true)
	b.in(first, Failed)
}

// A kernel that was netbooted and dies is tried three times, and one that cannot be fetched until its time is over.
func TestNetbootedKernelDies(t *testing.T) {
	b := memoryBench(t)
	b.must(PutStack{Stack: Stack{Name: "own", Layers: []Ref{{Name: "tree"}, {Name: "live"}}, Start: StartNetboot}})
	id := b.queue("vm", "own")
	if _, err := b.Staging(t.Context(), agentKey(1)); err == nil {
		t.Error("a stranger may send a second stage")
	}
	b.take(id, Working, 1)
	if x, err := b.Staging(t.Context(), agentKey(1)); err != nil || x.ID != id {
		t.Errorf("staging: %+v, %v", x, err)
	}
	b.report(1, Report{Boot: id, Rung: RungWrite, Writing: true})
	b.report(1, Report{Boot: id, Rung: RungHandover, Proven: true})
	if _, err := b.Staging(t.Context(), agentKey(1)); err == nil {
		t.Error("a second stage may be sent after the handover")
	}
	s := b.script(vmMAC)
	if again := b.script(vmMAC); s.Do != ScriptSystem || s.Token == "" || again.Token != s.Token {
		t.Errorf("scripts %+v, %+v", s, again)
	}
	b.loaded(id)
	b.in(id, Handover)
	b.script(vmMAC)
	b.in(id, Starting)
	if x := b.boot(id); x.Strikes != 1 {
		t.Errorf("%+v", x)
	}
	b.pass(time.Second)
}
