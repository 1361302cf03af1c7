package cli

import (
	"testing"

	"carte/lab"
)

// What two boots have shown decides on each clause, and what they cannot show is said.
func TestProve(t *testing.T) {
	all := lab.Plan{Reset: lab.ResetAlways}
	for _, row := range lab.Clauses {
		all.Agreed = append(all.Agreed, lab.Agreed{Clause: row.Clause, Given: true})
	}
	told := func(pairs ...any) map[string]lab.Metric {
		m := map[string]lab.Metric{}
		for i := 0; i < len(pairs); i += 2 {
			m["contract_"+pairs[i].(string)] = lab.Metric{Value: pairs[i+1].(float64)}
		}
		return m
	}
	good := seenBoot{Boot: lab.Boot{Plan: all, Metrics: told("started", 1.0, "dirty", 0.0, "network", 1.0), Results: []lab.Result{{Path: "contract"}}, Moved: lab.Moved{Read: 1 << 20}}, shim: true, absent: 1 << 20}
	bad := seenBoot{Boot: lab.Boot{Plan: all, Metrics: told("dirty", 1.0, "network", 0.0)}}
	bad.Moved.Written = 4096
	own := seenBoot{Boot: lab.Boot{Plan: all}, said: "/carte/project/run starts"}
	none := seenBoot{Boot: lab.Boot{Plan: lab.Plan{Agreed: []lab.Agreed{{Clause: lab.Lazy, Why: "nobody asked"}}}}}
	for _, c := range lab.Clauses {
		if p := prove(c.Clause, good, good, lab.Version{}); p.Verdict != lab.VerdictKept || p.Why == "" {
			t.Errorf("all is well, and %+v", p)
		}
		want := lab.VerdictBroken
		if c.Clause == lab.Lazy {
			want = lab.VerdictSkipped
		}
		if p := prove(c.Clause, bad, bad, lab.Version{}); p.Verdict != want || p.Why == "" {
			t.Errorf("nothing is well, and %+v", p)
		}
		if p := prove(c.Clause, none, none, lab.Version{}); p.Verdict != lab.VerdictSkipped || p.Why == "" {
			t.Errorf("nothing was agreed on, and %+v", p)
		}
	}
	if p := prove(lab.Network, own, own, lab.Version{}); p.Verdict != lab.VerdictSkipped {
		t.Errorf("a program of its own says nothing of the network: %+v", p)
	}
	if p := prove(lab.Autostart, own, own, lab.Version{}); p.Verdict != lab.VerdictKept {
		t.Errorf("a program of its own has started: %+v", p)
	}
}
