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
	if !ok || !got.Kept() || got.At.IsZero() || got.Words() != "1 clauses kept, 1 skipped" {
		t.Errorf("the badge is %+v, %v: %s", got, ok, got.Words())
	}
	if terms, err := s.Declared(Ref{Name: "treeish"}); err != nil || terms.String() != "autostart optional" {
		t.Errorf("declared: %v, %v", terms, err)
	}
	other := one
	other.Root = chunk.ID{2}
	bad := one
	bad.Proofs = []Proof{{"warmth", VerdictKept, ""}}
	for _, v := range []PutBadge{{other}, {bad}, {Badge{Ref: Ref{"treeish", 1}, Root: chunk.ID{1}}}} {
		if err := b.tries(v); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", v, err)
		}
	}
	broken := one
	broken.Proofs = append(broken.Proofs, Proof{Network, VerdictBroken, "no address"})
	if broken.Kept() || !strings.Contains(broken.Words(), "1 broken") {
		t.Error(broken.Words())
	}
}
