package lab

import (
	"testing"
	"time"
)

// What a boot left goes only when a person has it, or has named it twice; and only what was meant.
func TestForgetOut(t *testing.T) {
	b := furnished(t)
	left := func(path string, n int64) Boot {
		t.Helper()
		x := b.runs("vm", Stack{Name: path, Layers: named("root")})
		wantError(t, "of a boot that goes on", b.tries(ForgetOut{Boots: []int64{x.ID}, Confirm: []int64{x.ID}}), ErrBusy, "may yet bring results")
		if err := b.Collected(t.Context(), x.ID, []Result{{Path: path, Bytes: n, Sum: path}}); err != nil {
			t.Fatal(err)
		}
		b.report(1, Report{Boot: x.ID, Shim: true, Lines: []string{"::carte done"}})
		b.in(x.ID, Done)
		return b.boot(x.ID)
	}
	one, two := left("one", 100), left("two", 200)
	three := b.queue("vm", "one")
	for what, v := range map[string]struct {
		v     ForgetOut
		kind  error
		words string
	}{
		"of nothing":       {ForgetOut{}, ErrInvalid, "either boots by their numbers"},
		"of both":          {ForgetOut{Boots: []int64{one.ID}, Older: 1}, ErrInvalid, "either boots by their numbers"},
		"of the future":    {ForgetOut{Older: -1}, ErrInvalid, "more than nothing"},
		"of no boot":       {ForgetOut{Boots: []int64{99}}, ErrNotFound, "boot 99"},
		"of one that goes": {ForgetOut{Boots: []int64{three}}, ErrBusy, "may yet bring results"},
		"nobody has it":    {ForgetOut{Boots: []int64{one.ID}}, ErrConfirm, "--confirm"},
		"another is named": {ForgetOut{Boots: []int64{one.ID, two.ID}, Confirm: []int64{two.ID}}, ErrConfirm, "--confirm"},
	} {
		wantError(t, what, b.tries(v.v), v.kind, v.words)
	}
	if len(b.now().Outs()) != 2 {
		t.Fatal("a refusal has removed something")
	}
	b.must(TookOut{Boot: one.ID, Sum: "of others"})
	if !b.boot(one.ID).OutTaken.IsZero() {
		t.Error("others were taken, and these count as taken")
	}
	b.must(TookOut{Boot: one.ID, Sum: one.OutSum()})
	b.clock = b.clock.Add(48 * time.Hour)
	going, kept, err := b.now().Forgets(ForgetOut{Older: 49 * 3600}, b.clock)
	if err != nil || len(going)+len(kept) > 0 {
		t.Errorf("older than they are: %v, %v, %v", going, kept, err)
	}
	going, kept, err = b.now().Forgets(ForgetOut{Older: 47 * 3600}, b.clock)
	if err != nil || len(going) != 1 || going[0].ID != one.ID || len(kept) != 1 || kept[0].ID != two.ID {
		t.Errorf("old enough: %v, %v, %v", going, kept, err)
	}
	b.must(ForgetOut{Older: 47 * 3600})
	x := b.boot(one.ID)
	if x.HasOut() || x.OutBytes() != 0 || len(x.Results) != 1 || !x.OutGone.Equal(b.clock) || !b.boot(two.ID).HasOut() {
		t.Errorf("forgotten: %+v", x)
	}
	wantError(t, "once more", b.tries(ForgetOut{Boots: []int64{one.ID}}), ErrNotFound, "was removed at")
	b.must(ForgetOut{Boots: []int64{two.ID}, Confirm: []int64{two.ID}})
	if len(b.now().Outs()) != 0 {
		t.Errorf("there are %v", b.now().Outs())
	}
	// What comes later is something that nobody has spoken of.
	if err := b.Collected(t.Context(), two.ID, []Result{{Path: "late", Bytes: 5}}); err != nil || b.boot(two.ID).OutBytes() != 5 || !b.boot(two.ID).OutTaken.IsZero() {
		t.Errorf("late results: %v, %+v", err, b.boot(two.ID))
	}
}
