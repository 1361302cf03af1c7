package qemu

import (
	"testing"
	"time"
)

func TestProbe(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: starts QEMU")
	}
	tools, err := Find(t.Context())
	if err != nil {
		t.Skip(err)
	}
	const patience = 3 * time.Minute
	if err := probe(t.Context(), tools, "tcg", patience); err != nil {
		t.Errorf("the boot sector does not run where everything runs: %v", err)
	}
	if err := probe(t.Context(), tools, "no-such", patience); err == nil {
		t.Error("an accelerator that is not there was found")
	}
	began := time.Now()
	accel, why := Accel(t.Context(), tools)
	t.Logf("Accel() = %s, %s (%v)", accel, why, time.Since(began).Round(time.Millisecond))
	if accel != "tcg" && accel != "kvm" || why == "" {
		t.Errorf("Accel() = %q, %q", accel, why)
	}
	if took := time.Since(began); took > 10*probeLimit {
		t.Errorf("Accel() took %v", took)
	}
}
