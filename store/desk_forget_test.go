package store

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"carte/lab"
)

// overWith is a boot that has brought home results, and is over.
func overWith(t testing.TB, d *Desk, n int) lab.Boot {
	t.Helper()
	b := running(t, d, "vm-1", "s")
	if err := d.Out(t.Context(), b, bytes.NewReader(resultSet(t, n))); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Report(t.Context(), key(int(b.ID)), lab.Report{Boot: b.ID, Shim: true, Lines: []string{"::carte done"}}); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestForgottenResultsAreRemoved(t *testing.T) {
	dir := t.TempDir()
	d := composedDesk(t, dir)
	b := overWith(t, d, 7)
	if got, err := d.Collect(t.Context(), false); err != nil || got.Results == 0 {
		t.Errorf("gc: %+v, %v", got, err)
	}
	if _, err := d.Say(t.Context(), lab.ForgetOut{Boots: []int64{b.ID}}); !errors.Is(err, lab.ErrConfirm) {
		t.Errorf("nobody has it: %v", err)
	}
	wholeSet(t, d, b.ID, 7)
	say(t, d, lab.ForgetOut{Boots: []int64{b.ID}, Confirm: []int64{b.ID}})
	if _, err := os.Stat(d.outOf(b.ID)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder: %v", err)
	}
	if err := d.Results(t.Context(), b.ID, io.Discard); !errors.Is(err, lab.ErrNotFound) || !strings.Contains(err.Error(), "was removed at") {
		t.Errorf("Results: %v", err)
	}
	if got, err := d.Collect(t.Context(), true); err != nil || got.Results != 0 {
		t.Errorf("gc: %+v, %v", got, err)
	}
	if err := d.Out(t.Context(), b, bytes.NewReader(resultSet(t, 8))); err != nil { // it was not at its end
		t.Error(err)
	}
	wholeSet(t, d, b.ID, 8)
	if err := d.State.Close(); err != nil {
		t.Error(err)
	}
}

// Stopped at any point, results are either whole and in the record, or gone from both.
func TestAStopWhileResultsAreForgotten(t *testing.T) {
	for at, gone := range map[string]bool{"results forgotten": true, "results taken away": true} {
		d := composedDesk(t, t.TempDir())
		kept, b := overWith(t, d, 1), overWith(t, d, 2)
		d = stoppedAt(t, d, at, func() { _, _ = d.Say(t.Context(), lab.ForgetOut{Boots: []int64{b.ID}, Confirm: []int64{b.ID}}) })
		s, err := d.Watch(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		_, statErr := os.Stat(d.outOf(b.ID))
		if s.Boots[b.ID].HasOut() == gone || errors.Is(statErr, os.ErrNotExist) != gone {
			t.Errorf("after a stop at %q: %+v, %v", at, s.Boots[b.ID].OutGone, statErr)
		}
		wholeSet(t, d, kept.ID, 1)
		d.State.Close()
	}
}
