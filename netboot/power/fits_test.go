package power

import (
	"errors"
	"strings"
	"testing"

	"carte/lab"
)

func TestFits(t *testing.T) {
	small := lab.Virtual{DiskBytes: 1 << 20, MemoryBytes: 1 << 20, CPUs: 1, Wire: "user"}
	for says, change := range map[string]func(*lab.Virtual){
		"":                             func(*lab.Virtual) {},
		"and this computer has ":       func(v *lab.Virtual) { v.MemoryBytes = 900 << 40 },
		"files end at ":                func(v *lab.Virtual) { v.DiskBytes = 900 << 40 },
		"ip tuntap add nope0 mode tap": func(v *lab.Virtual) { v.Wire = "nope0" },
		"the wire lo, which is not":    func(v *lab.Virtual) { v.Wire = "lo" },
	} {
		v := small
		change(&v)
		if err := Fits(v); says == "" && err != nil || says != "" && (!errors.Is(err, lab.ErrInvalid) || !strings.Contains(err.Error(), says)) {
			t.Errorf("%q: %v", says, err)
		}
	}
	q := &QEMU{Dir: t.TempDir(), accel: "tcg"}
	m := virtual()
	m.Virtual.MemoryBytes = 900 << 40
	if err := q.On(t.Context(), m); !errors.Is(err, lab.ErrInvalid) || !strings.HasPrefix(err.Error(), "vm-1 cannot be switched on: it has ") {
		t.Errorf("On = %v", err)
	}
}
