package power

import (
	"context"
	"errors"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"carte/lab"
	"carte/netboot/qemu"
)

func virtual() lab.Machine {
	return lab.Machine{
		ID: 3, Name: "vm-1", Standing: lab.Adopted, MACs: []lab.MAC{"52:54:00:00:00:03"}, Power: lab.Power{Driver: "qemu"},
		UUID:    "6ba7b810-9dad-41d1-80b4-00c04fd430c8",
		Virtual: &lab.Virtual{DiskBytes: 1 << 20, Serial: "carte-00c0ffee", MemoryBytes: 128 << 20, CPUs: 1, Firmware: lab.BIOS, Wire: "user"},
		Arms:    []lab.Arm{{DiskID: lab.DiskID{Serial: "carte-00c0ffee", Bytes: 1 << 20}}},
	}
}

// spec needs no QEMU once it has been found.
func TestSpec(t *testing.T) {
	q := &QEMU{Dir: "/state/machines", accel: "tcg", Boot: func(m lab.Machine) string { return "http://10.0.2.2/" + m.Name }}
	m := virtual()
	s, _, err := q.spec(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	if s.Name != "vm-1" || s.Dir != "/state/machines/3" || s.Serial != "carte-00c0ffee" || s.Boot != "http://10.0.2.2/vm-1" || s.UEFI || s.MAC.String() != "52:54:00:00:00:03" {
		t.Errorf("spec = %+v", s)
	}
	m.Virtual.Wire, m.Virtual.Firmware, m.Arms = "tap0", lab.UEFI, nil
	s, _, err = q.spec(t.Context(), m)
	if err != nil || s.Wire.Tap != "tap0" || s.Boot != "" || !s.UEFI || s.Serial == "" || len(s.Serial) > 20 {
		t.Errorf("spec on a tap = %+v, %v", s, err)
	}
	if _, _, err := q.spec(t.Context(), metal("qemu")); !errors.Is(err, lab.ErrInvalid) {
		t.Errorf("a real machine: %v", err)
	}
}

func TestQEMUMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	q := &QEMU{Dir: t.TempDir()}
	if err := q.On(t.Context(), virtual()); !errors.Is(err, lab.ErrNotFound) || !strings.Contains(err.Error(), qemu.Install) {
		t.Errorf("On = %v, want how to install QEMU", err)
	}
}

func TestQEMUDriver(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: starts QEMU")
	}
	if _, err := qemu.Find(t.Context()); err != nil {
		t.Skip(err)
	}
	lines := make(chan string, 1000)
	ended := make(chan error, 10)
	var gate sync.RWMutex
	q := &QEMU{
		Dir: t.TempDir(),
		Console: func(_ lab.Machine, l []string) {
			for _, s := range l {
				select {
				case lines <- s:
				default:
				}
			}
			gate.RLock() // the test holds it to be a slow listener
			gate.RUnlock()
		},
		Ended: func(_ lab.Machine, err error) { ended <- err },
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	running, stop := context.WithCancel(ctx)
	over := make(chan error, 1)
	go func() { over <- q.Run(running) }()

	m := virtual()
	expect := func(verb string, err error, state string) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", verb, err)
		}
		if got, err := q.State(ctx, m); got != state || err != nil {
			t.Fatalf("after %s: %q, %v, want %q", verb, got, err, state)
		}
	}
	expect("nothing", nil, StateOff)
	expect("off", q.Off(ctx, m), StateOff)
	expect("on", q.On(ctx, m), StateOn)
	expect("on again", q.On(ctx, m), StateOn)
	for line := range lines {
		if strings.Contains(line, "SeaBIOS") {
			break
		}
	}
	if err := q.Type(m, []byte("x")); err != nil {
		t.Error(err)
	}
	expect("cycle", q.Cycle(ctx, m), StateOn)
	expect("off", q.Off(ctx, m), StateOff)
	expect("cycle", q.Cycle(ctx, m), StateOn)
	if len(ended) > 0 {
		t.Errorf("a power-off that was asked for was told as an end: %v", <-ended)
	}

	// A QEMU that dies by itself is told, once all that it printed was heard, and can be started again at once.
	for len(lines) > 0 {
		<-lines
	}
	gate.Lock()
	expect("cycle", q.Cycle(ctx, m), StateOn)
	<-lines
	if err := syscall.Kill(q.guest(m.ID).vm.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
		t.Error("the end was told before the last lines were heard")
	case <-time.After(300 * time.Millisecond):
	}
	gate.Unlock()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("QEMU was killed and the end was told as a good one")
		}
	case <-ctx.Done():
		t.Fatal("QEMU was killed and nobody was told")
	}
	expect("on", q.On(ctx, m), StateOn)
	stop()
	if err := <-over; !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v, want cancelled", err)
	}
	expect("the end", nil, StateOff)
	if err := q.Type(m, []byte("x")); !errors.Is(err, lab.ErrUnreachable) {
		t.Errorf("Type on a machine that is off: %v", err)
	}
}
