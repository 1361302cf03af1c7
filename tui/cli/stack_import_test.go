package cli

import (
	"testing"

	"carte/lab"
)

// Of a bundle that brings nothing new there is no row, and so it is said in words.
func TestTakenOfNothing(t *testing.T) {
	if l := takenList(lab.Snapshot{}, lab.Taken{}); len(l.rows) != 0 {
		t.Errorf("rows %v", l.rows)
	}
}
