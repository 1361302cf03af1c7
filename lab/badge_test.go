package lab

import (
	"errors"
	"strings"
	"testing"

	"carte/lab/chunk"
)

func TestBadge(t *testing.T) {
	b := newBench(t)
	b.must(AddVersion{Version: Version{Image: "treeish", Root: chunk.ID{1}, Bytes: 1 << 20, Offers: Terms{Autostart: Optional}}, Kind: "system", Form: FormTree})
	one := Badge{Ref: Ref{"treeish", 1}, Root: chunk.ID{1}, Machine: "vm", Proofs: []Proof{{Autostart, VerdictKept, "seen"}, {Lazy, VerdictSkipped, "too small"}}}
	b.must(PutBadge{one})
	s := b.now()
	got, ok := s.BadgeOf(s.Versions["treeish@1"])
	if !ok || !got.Kept() || got.At.IsZero() || got.Words() != "1 clause kept, 1 skipped" {
		t.Errorf("the badge is %+v, %v: %s", got, ok, got.Words())
	}
	if terms, err := s.Declared(Ref{Name: "treeish"}); err != nil || terms.String() != "autostart optional" {
		t.Errorf("declared: %v, %v", terms, err)
	}
	other := one
	other.Root = chunk.ID{2}
	bad := one
	bad.Proofs = []Proof{{"warmth", VerdictKept, ""}}
	twice := one
	twice.Proofs = append(twice.Proofs, one.Proofs[0])
	for _, v := range []PutBadge{{other}, {bad}, {twice}, {Badge{Ref: Ref{"treeish", 1}, Root: chunk.ID{1}}}} {
		if err := b.tries(v); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", v, err)
		}
	}
	broken := one
	broken.Proofs = append(broken.Proofs, Proof{Network, VerdictBroken, "no address"})
	if broken.Kept() || !strings.Contains(broken.Words(), "1 broken") {
		t.Error(broken.Words())
	}
	whole := Badge{Proofs: []Proof{{Starts, VerdictKept, ""}, {Again, VerdictKept, ""}, {Overlay, VerdictAbsent, ""}, {Sealed, VerdictKept, ""}, {Network, VerdictKept, ""}}}
	if w := whole.Words(); w != "starts, and again, 2 clauses kept" || whole.Word() != "kept" || broken.Word() != "broken" {
		t.Errorf("in words: %q, %q", w, whole.Word())
	}
	kernel := Badge{Proofs: []Proof{{Starts, VerdictBroken, ""}, {Overlay, VerdictAbsent, ""}}}
	if w := kernel.Words(); w != "does not start" || kernel.Word() != "broken" {
		t.Errorf("in words: %q, %q", w, kernel.Word())
	}
	if b := (Badge{Proofs: []Proof{{Overlay, VerdictAbsent, ""}, {Lazy, VerdictSkipped, ""}}}); b.Kept() || b.Word() != "not told" {
		t.Errorf("nothing was told: %q", b.Word())
	}
}
