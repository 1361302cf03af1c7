package labtest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"carte/lab"
	"carte/netboot/power"
)

// VMs runs the virtual machines of a bench under QEMU, as carte itself does, until the test ends.
type VMs struct {
	*power.QEMU
	bench *Bench
}

// NewVMs gives a bench its power drivers.
func NewVMs(t testing.TB, b *Bench) *VMs {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	q := &power.QEMU{
		Dir: t.TempDir(), Boot: b.Net.ScriptURL,
		Console: func(m lab.Machine, lines []string) {
			if err := b.Console(ctx, m.ID, lines); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		},
		Ended: func(m lab.Machine, why error) {
			if err := b.Powered(ctx, lab.Powered{Machine: m.ID, State: power.StateOff, Err: why}); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		},
	}
	runner := &power.Runner{Lab: b.Lab, Driver: power.Set{"qemu": q, "manual": power.Manual{}}, Log: quiet}
	var all sync.WaitGroup
	for _, run := range []func(context.Context) error{q.Run, runner.Run} {
		all.Go(func() {
			if err := run(ctx); err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() { cancel(); all.Wait() })
	return &VMs{q, b}
}

// Disk is the file that a machine has as its disk.
func (v *VMs) Disk(m lab.Machine) string {
	return filepath.Join(v.Dir, strconv.FormatInt(m.ID, 10), "disk.raw")
}

// CutPower kills a machine's process, which is what a power cut is to it. It does not ask anybody.
func (v *VMs) CutPower(t testing.TB, m lab.Machine) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range all {
		words, err := os.ReadFile(file)
		if err != nil || !bytes.HasPrefix(words, []byte("qemu")) && !bytes.Contains(words, []byte("/qemu-system")) || !bytes.Contains(words, []byte(v.Disk(m))) {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(file, "/")[2])
		if err == nil {
			err = syscall.Kill(pid, syscall.SIGKILL)
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("%s is not running", m.Label())
}

// Expect waits until a machine's console shows words in a line after a mark, and returns the mark behind that line.
func (v *VMs) Expect(t testing.TB, m lab.Machine, after int64, words string) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*Patience)
	defer cancel()
	var seen []string
	for {
		lines, next, _, err := v.bench.Tail(ctx, lab.Tail{Machine: m.ID, After: after, Wait: true})
		if err != nil {
			t.Fatalf("waited %v for %q on %s's console: %v; its last lines:\n%s", 2*Patience, words, m.Label(), err, strings.Join(seen[max(0, len(seen)-30):], "\n"))
		}
		for _, l := range lines {
			if seen = append(seen, l.Text); l.Source == "serial" && strings.Contains(l.Text, words) {
				return l.Seq
			}
		}
		after = next
	}
}

// Run types a command on a machine's console and waits until it has ended.
func (v *VMs) Run(t testing.TB, m lab.Machine, after int64, command string) int64 {
	t.Helper()
	if err := v.Type(m, []byte(command+"; echo DO\"\"NE\n")); err != nil {
		t.Fatal(err)
	}
	return v.Expect(t, m, after, "DONE")
}

// Mark is the place in the log that the next line comes after.
func Mark(t testing.TB, d lab.Desk) int64 {
	t.Helper()
	_, next, _, err := d.Tail(t.Context(), lab.Tail{Max: 1})
	if err != nil {
		t.Fatal(err)
	}
	return next
}

// Long is how long a whole boot of a real system may take under emulation on a busy computer.
const Long = 15 * time.Minute
