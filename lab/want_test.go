package lab

import (
	"testing"

	"carte/lab/chunk"
)

// Where more is wanted than one reply asks for, everything is asked for in turn.
func TestWantedInTurn(t *testing.T) {
	l := &Lab{}
	if got := l.asks(); len(got) != 0 {
		t.Errorf("nothing is wanted, and %v are asked for", got)
	}
	var ids []chunk.ID
	for i := range 2*MaxWanted + 7 {
		ids = append(ids, chunk.ID{byte(i), 1})
	}
	l.Want(ids)
	seen := map[chunk.ID]int{}
	for range 6 {
		got := l.asks()
		if len(got) > MaxWanted {
			t.Fatalf("%d at once", len(got))
		}
		for _, id := range got {
			seen[id]++
		}
	}
	for _, id := range ids {
		if seen[id] != 2 {
			t.Errorf("%v was asked for %d times in two rounds", id, seen[id])
		}
	}
	l.Unwant(ids[1:])
	if got := l.asks(); len(got) != 1 || got[0] != ids[0] || !l.Wanted(ids[0]) || l.Wanted(ids[1]) {
		t.Errorf("asked for %v, want %v alone", got, ids[0])
	}
}
