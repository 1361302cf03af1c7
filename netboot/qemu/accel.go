package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// probeLimit is how long the probing guest may take. With a KVM that works it ends
// in a tenth of a second.
const probeLimit = 3 * time.Second

// probePort is where the guest of the probe writes probeValue; QEMU's
// isa-debug-exit then ends with the status value<<1 | 1.
const (
	probePort  = 0x501
	probeValue = 0x31
)

// probeSector is a boot sector that ends QEMU by itself. SeaBIOS loads it at 7c00h
// in 16-bit mode and wants the last two bytes.
func probeSector() []byte {
	b := make([]byte, 512)
	copy(b, []byte{
		0xba, probePort & 0xff, probePort >> 8, // mov dx, 501h
		0xb0, probeValue, // mov al, 31h
		0xee,       // out dx, al
		0xf4,       // hlt
		0xeb, 0xfd, // jmp back to hlt
	})
	b[510], b[511] = 0x55, 0xaa
	return b
}

// Accel returns the accelerator that virtual machines can use here and why: "kvm"
// only when a guest has really run with it, for a device file proves nothing (on
// some hosts /dev/kvm opens and every guest hangs), else "tcg", which always works
// and is ten times slower or more. It takes up to 3 s: ask once and keep the answer.
func Accel(ctx context.Context, t Tools) (accel, why string) {
	if err := unix.Access("/dev/kvm", unix.R_OK|unix.W_OK); err != nil {
		return "tcg", fmt.Sprintf("emulated: /dev/kvm: %v", err)
	}
	if err := probe(ctx, t, "kvm", probeLimit); err != nil {
		return "tcg", fmt.Sprintf("emulated: %v", err)
	}
	return "kvm", "KVM: a guest ran"
}

// probe starts the probing guest and is nil when it came to its last instruction.
func probe(ctx context.Context, t Tools, accel string, limit time.Duration) error {
	dir, err := os.MkdirTemp("", "carte-probe-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	disk := filepath.Join(dir, "boot")
	if err := os.WriteFile(disk, probeSector(), 0o600); err != nil {
		return err
	}
	runtime.LockOSThread() // for Pdeathsig: see VM.Run
	defer runtime.UnlockOSThread()
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(limited, t.QEMU,
		"-accel", accel, "-machine", "pc", "-m", "32", "-nodefaults", "-no-user-config", "-display", "none",
		"-drive", "if=ide,format=raw,file="+quote(disk),
		"-device", fmt.Sprintf("isa-debug-exit,iobase=%#x,iosize=1", probePort))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = quitLimit
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if limited.Err() != nil {
		return fmt.Errorf("a guest with %s did not come to its first instructions in %v", accel, limit)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == probeValue<<1|1 {
		return nil
	}
	return fmt.Errorf("a guest with %s failed: %v %s", accel, err, out)
}
