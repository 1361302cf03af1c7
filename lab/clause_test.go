package lab

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// without is a lab in which the tree says that it offers nothing, so that only what a test adds is offered.
func without(t *testing.T) *bench {
	b := newBench(t)
	b.image("root", "system", FormTree, offers(Terms{}))
	b.image("files", "system", FormFiles, offers(Terms{}))
	return b
}

// Every internal clause is offered by one image and lacked by another, and asked for as optional and as required.
func TestInternalClauses(t *testing.T) {
	for _, row := range Clauses {
		t.Run(string(row.Clause), func(t *testing.T) {
			b := without(t)
			b.image("offers", "system", FormFiles, offers(Terms{row.Clause: Optional}))
			b.image("insists", "system", FormFiles, offers(Terms{row.Clause: Required}))
			b.image("whole", "system", FormDisk, offers(Terms{row.Clause: Optional}))
			for _, x := range []struct {
				layers string
				asks   Need
				given  bool // and said to be
				said   bool
				why    string // it is not
			}{
				{"root files", "", false, false, ""},
				{"root files", Optional, false, true, "no image offers it; " + row.Lacks},
				{"root offers", "", row.Clause != Lazy, row.Clause != Lazy, ""},
				{"root offers", Optional, true, true, ""},
				{"root offers", Required, true, true, ""},
				{"root insists", "", true, true, ""},
				{"root insists", Optional, true, true, ""},
				{"whole", Optional, slices.Contains(row.Served, FormDisk), true, "carte cannot keep it for a disk; " + row.Lacks},
			} {
				st := Stack{Name: "s", Layers: named(strings.Fields(x.layers)...)}
				if x.asks != "" {
					st.Asks = Terms{row.Clause: x.asks}
				}
				b.must(PutStack{Stack: st})
				p, err := b.now().Resolve("s")
				if err != nil {
					t.Fatal(err)
				}
				i := slices.IndexFunc(p.Agreed, func(a Agreed) bool { return a.Clause == row.Clause })
				if (i >= 0) != x.said || p.Gives(row.Clause) != x.given {
					t.Errorf("%s, asked for %q: %+v", x.layers, x.asks, p.Agreed)
				}
				if i >= 0 && !x.given && p.Agreed[i].Why != x.why {
					t.Errorf("%s, asked for %q: it is not given because %q, want %q", x.layers, x.asks, p.Agreed[i].Why, x.why)
				}
				if slices.Contains(p.compose().Given, row.Clause) != x.given {
					t.Errorf("%s: the agent is told of %v", x.layers, p.compose().Given)
				}
				b.must(RemoveStack{Name: "s"})
			}
			words := fmt.Sprintf("clause %s is required and cannot be given", row.Clause)
			b.refused(PutStack{Stack: Stack{Name: "s", Layers: named("root", "files"), Asks: Terms{row.Clause: Required}}}, ErrRefused, words, "no image offers it")
			if !slices.Contains(row.Served, FormDisk) {
				b.refused(PutStack{Stack: Stack{Name: "s", Layers: named("whole"), Asks: Terms{row.Clause: Required}}}, ErrRefused, words, "carte cannot keep it for a disk")
			}
			// A floating stack whose newest version no longer offers it is refused when it is booted.
			b.must(PutStack{Stack: Stack{Name: "s", Layers: named("root", "offers"), Asks: Terms{row.Clause: Required}}})
			b.image("offers", "system", FormFiles, other, offers(Terms{}))
			b.refused(Queue{Machine: "vm", Stack: "s"}, ErrRefused, words)
		})
	}
}

func TestTermsRefused(t *testing.T) {
	for words, terms := range map[string]Terms{
		`clause "autorun"`:                   {"autorun": Optional},
		"it is optional or required":         {Lazy: "perhaps"},
		"lazy and sealed cannot both be req": {Lazy: Required, Sealed: Required},
	} {
		wantError(t, words, terms.Check(), ErrInvalid, words)
	}
	b := without(t)
	b.image("lazy", "system", FormFiles, offers(Terms{Lazy: Required}))
	b.image("sealed", "system", FormFiles, offers(Terms{Sealed: Optional}))
	b.must(PutStack{Stack: Stack{Name: "s", Layers: named("root", "lazy", "sealed")}})
	p, err := b.now().Resolve("s")
	if err != nil || !p.Gives(Lazy) || p.Gives(Sealed) {
		t.Errorf("of lazy, which is required, and sealed, which is not: %+v, %v", p.Agreed, err)
	}
	b.refused(PutStack{Stack: Stack{Name: "t", Layers: named("root", "lazy", "sealed"), Asks: Terms{Sealed: Required}}}, ErrRefused, "clause sealed", "lazy is given")
}

// What the clauses mean is kept to by the server, too.
func TestClausesAreKept(t *testing.T) {
	t.Run("sealed", func(t *testing.T) {
		b := without(t)
		b.image("sealed", "system", FormFiles, offers(Terms{Sealed: Optional}))
		b.must(PutStack{Stack: Stack{Name: "s", Layers: named("root", "sealed"), Reset: ResetTrust}})
		if p, err := b.now().Resolve("s"); err != nil || p.Reset != ResetAlways {
			t.Errorf("what is sealed is proven %s, %v", p.Reset, err)
		}
	})
	t.Run("autostart", func(t *testing.T) {
		b := without(t)
		b.image("work", "project", FormFiles, inside(Inside{Run: true}))
		b.image("data", "project", FormFiles)
		b.must(PutStack{Stack: Stack{Name: "s", Layers: named("root", "work")}})
		b.must(PutStack{Stack: Stack{Name: "t", Layers: named("root", "data")}})
		for stack, want := range map[string]bool{"s": true, "t": false} {
			if p, err := b.now().Resolve(stack); err != nil || p.Gives(Autostart) != want {
				t.Errorf("%s: autostart is %v, %v", stack, p.Gives(Autostart), err)
			}
		}
	})
	t.Run("lazy", func(t *testing.T) {
		b := without(t)
		b.image("later", "system", FormFiles, offers(Terms{Lazy: Optional}))
		b.image("bare", "system", FormKernel, inside(Inside{Starts: "linux", Lacks: []string{"fuse", "loop"}}))
		b.image("full", "system", FormKernel, inside(Inside{Starts: "linux"}))
		const why = "the kernel bare@1 has no fuse and no loop, through which"
		b.must(PutStack{Stack: Stack{Name: "s", Layers: named("root", "later", "bare"), Asks: Terms{Lazy: Optional}}})
		p, err := b.now().Resolve("s")
		if err != nil || p.Gives(Lazy) || !slices.ContainsFunc(p.Agreed, func(a Agreed) bool { return a.Clause == Lazy && strings.HasPrefix(a.Why, why) }) {
			t.Errorf("under a kernel that cannot: %+v, %v", p.Agreed, err)
		}
		if slices.ContainsFunc(p.writes(), func(w Write) bool { return w.Lazy }) {
			t.Errorf("the agent is told to lay %+v", p.writes())
		}
		b.refused(PutStack{Stack: Stack{Name: "t", Layers: named("root", "later", "bare"), Asks: Terms{Lazy: Required}}}, ErrRefused, "clause lazy is required and cannot be given", why)
		b.must(PutStack{Stack: Stack{Name: "t", Layers: named("root", "later", "full"), Asks: Terms{Lazy: Required}}})
		if p, err := b.now().Resolve("t"); err != nil || !p.Gives(Lazy) || !p.compose().Requires(Lazy) || p.compose().Requires(Overlay) {
			t.Errorf("under a kernel that can: %+v, %v", p.compose(), err)
		}
	})
	t.Run("results", func(t *testing.T) {
		b := without(t)
		x := b.runs("vm", Stack{Name: "s", Layers: named("root")})
		wantError(t, "results without the clause", b.Collected(t.Context(), x.ID, []Result{{Path: "a"}}), ErrRefused, `clause "results"`)
		b.image("out", "system", FormFiles, offers(Terms{Results: Optional}))
		b.must(Stop{Boot: x.ID})
		b.pass(RevokeGrace + time.Second)
		x = b.runs("vm", Stack{Name: "t", Layers: named("root", "out")})
		if err := b.Collected(t.Context(), x.ID, []Result{{Path: "a", Bytes: 1}}); err != nil || len(b.boot(x.ID).Results) != 1 {
			t.Errorf("results with the clause: %v, %+v", err, b.boot(x.ID).Results)
		}
		wantError(t, "too many", b.Collected(t.Context(), x.ID, make([]Result, maxResults+1)), ErrRefused, "are the most")
		wantError(t, "of no boot", b.Collected(t.Context(), 99, nil), ErrNotFound)
	})
	t.Run("heartbeat", func(t *testing.T) {
		for _, beats := range []bool{true, false} {
			b := without(t)
			terms := Terms{}
			if beats {
				terms[Heartbeat] = Optional
			}
			b.image("beats", "system", FormFiles, offers(terms))
			x := b.runs("vm", Stack{Name: "s", Layers: named("root", "beats")})
			b.pass(shimSilence + time.Second)
			if got := b.boot(x.ID); (got.Strikes == 1) != beats {
				t.Errorf("heartbeat %v, and the shim is silent: %s, %d strikes, %s", beats, got.State, got.Strikes, got.Reason)
			}
		}
	})
}
