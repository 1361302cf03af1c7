package lab

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"carte/lab/chunk"
)

// A Badge is what a contract test has seen of one version: that its system starts, and for each clause that a boot kept it, broke
// it, or could not tell. The newest test of a version counts.
type Badge struct {
	Ref     Ref       `json:"ref"`
	Root    chunk.ID  `json:"root"`    // of the bytes that were tested: a badge says nothing of others
	Machine string    `json:"machine"` // where
	Carte   string    `json:"carte"`   // the version of carte that tested
	Proofs  []Proof   `json:"proofs"`
	At      time.Time `json:"at"`
}

// What a contract test looks at besides the clauses, and a proof names in the place of one.
const (
	Starts Clause = "starts" // its system starts, and shows itself
	Again  Clause = "again"  // of a disk: it starts a second time, from the same bytes
)

// A Proof is what became of one clause.
type Proof struct {
	Clause  Clause  `json:"clause"`
	Verdict Verdict `json:"verdict"`
	Why     string  `json:"why"` // what was seen, or why nothing could be
}

// A Verdict is one word on a clause.
type Verdict string

const (
	VerdictKept    Verdict = "kept"
	VerdictBroken  Verdict = "broken"
	VerdictSkipped Verdict = "skipped" // it could not be told here; Why says so
	VerdictAbsent  Verdict = "not offered"
)

var verdicts = []Verdict{VerdictKept, VerdictBroken, VerdictSkipped, VerdictAbsent}

// Kept says that no clause was broken, and one at least was kept.
func (b Badge) Kept() bool {
	return slices.ContainsFunc(b.Proofs, func(p Proof) bool { return p.Verdict == VerdictKept }) &&
		!slices.ContainsFunc(b.Proofs, func(p Proof) bool { return p.Verdict == VerdictBroken })
}

// Word is a badge in one word.
func (b Badge) Word() string {
	switch {
	case b.Kept():
		return "kept"
	case slices.ContainsFunc(b.Proofs, func(p Proof) bool { return p.Verdict == VerdictBroken }):
		return "broken"
	}
	return "not told"
}

// Words are a badge on one line. What is not offered is left out.
func (b Badge) Words() string {
	var parts []string
	count := map[Verdict]int{}
	for _, p := range b.Proofs {
		words := map[Verdict]string{}
		switch p.Clause {
		case Starts:
			words = map[Verdict]string{VerdictKept: "starts", VerdictBroken: "does not start", VerdictSkipped: "its start was not seen"}
		case Again:
			words = map[Verdict]string{VerdictKept: "and again", VerdictBroken: "not a second time"}
		default:
			count[p.Verdict]++
		}
		if words[p.Verdict] != "" {
			parts = append(parts, words[p.Verdict])
		}
	}
	if n := count[VerdictKept]; n == 1 {
		parts = append(parts, "1 clause kept")
	} else if n > 1 || len(parts) == 0 {
		parts = append(parts, fmt.Sprintf("%d clauses kept", n))
	}
	for _, v := range []Verdict{VerdictBroken, VerdictSkipped} {
		if count[v] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", count[v], v))
		}
	}
	return strings.Join(parts, ", ")
}

func (b Badge) apply(d *draft) { own(d, "badges", &d.Badges)[b.Ref.String()] = b }

// BadgeOf returns what was proven of a version, of the very bytes that it has.
func (s Snapshot) BadgeOf(v Version) (Badge, bool) {
	b, ok := s.Badges[v.Ref().String()]
	return b, ok && b.Root == v.Root
}

// Declared are the clauses that a version offers: those that it says itself, or what is true of everything of its form.
func (s Snapshot) Declared(ref Ref) (Terms, error) {
	v, err := s.Version(ref)
	if err != nil {
		return nil, err
	}
	l := PlanLayer{Ref: v.Ref(), Form: s.Images[v.Image].Form, Place: or(v.Place, places[s.Images[v.Image].Kind])}
	return s.offerings(Stack{}, []PlanLayer{l})[0].Terms, nil
}

// PutBadge keeps what a contract test has proven.
type PutBadge struct {
	Badge
}

func (v PutBadge) decide(d *draft) error {
	have, err := d.Snapshot.Version(v.Ref)
	switch {
	case err != nil:
		return err
	case v.Ref.Version == 0 || v.Root != have.Root:
		return fmt.Errorf("a badge is for one version and its bytes; %s has the root %s: %w", have.Ref(), have.Root, ErrInvalid)
	case len(v.Proofs) == 0:
		return fmt.Errorf("a badge of %s has no proofs: %w", v.Ref, ErrInvalid)
	}
	b := v.Badge
	b.At, b.Machine, b.Carte, b.Proofs = d.at, Clean(b.Machine), Clean(b.Carte), slices.Clone(b.Proofs)
	for i, p := range b.Proofs {
		known := p.Clause == Starts || p.Clause == Again || slices.ContainsFunc(Clauses, func(c InternalClause) bool { return c.Clause == p.Clause })
		if !known || !slices.Contains(verdicts, p.Verdict) {
			return fmt.Errorf("clause %q is %q: %w", p.Clause, p.Verdict, ErrInvalid)
		}
		if slices.ContainsFunc(b.Proofs[:i], func(o Proof) bool { return o.Clause == p.Clause }) {
			return fmt.Errorf("clause %q is proven twice: %w", p.Clause, ErrInvalid)
		}
		b.Proofs[i].Why = Clean(p.Why)
	}
	d.put(b)
	d.fact(0, 0, "contract of %s tested on %s: %s", b.Ref, b.Machine, b.Words())
	return nil
}
