package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// beside is the user's system as its shim sees it: through a procfs of the shim's own, which is mounted nowhere, so that it
// is there whatever the system mounts, moves and takes away.
type beside struct {
	proc int // the procfs
	gate *gate
	hold *hold
	term chan os.Signal
	down chan struct{}
}

func newBeside() (*beside, error) {
	fs, err := unix.Fsopen("proc", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("a procfs of its own: %w", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("a procfs of its own: %w", err)
	}
	proc, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("a procfs of its own: %w", err)
	}
	b := &beside{proc: proc, gate: newGate(), hold: newHold(), term: make(chan os.Signal, 1), down: make(chan struct{})}
	signal.Notify(b.term, unix.SIGTERM)
	return b, nil
}

// Enter makes what is process 1's root now the root of this process. An init may have pivoted since the last time.
func (b *beside) Enter() error {
	dir, err := unix.Openat(b.proc, "1/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("the root of process 1: %w", err)
	}
	defer unix.Close(dir)
	if err := unix.Fchdir(dir); err != nil {
		return fmt.Errorf("the root of process 1: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("enter the root of process 1: %w", err)
	}
	return nil
}

// read returns a short file of the procfs, without the blanks around it; empty when it cannot be read.
func (b *beside) read(name string) string {
	fd, err := unix.Openat(b.proc, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	buf := make([]byte, 256)
	n, err := unix.Read(fd, buf)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(buf[:n]))
}

// How long a system is given to come up. A systemd that is stuck on one unit still runs what it has started.
const (
	upMost   = 5 * time.Minute
	upQuiet  = 2 * time.Second
	upQuiets = time.Minute // a plain init whose system never becomes quiet is up by then
)

// agentPath is where the agent lies in its initramfs, as /proc tells it.
const agentPath = "/init"

// Up waits until the system is up: systemd says so through the guard; of another init, a getty or two seconds without a new
// process are the sign. Which init it is shows only once it has begun, which takes a slow machine seconds.
func (b *beside) Up(ctx context.Context) (string, error) {
	start := time.Now()
	began, last, since := start, "", start
	for {
		switch one := b.exe("1"); {
		case path.Base(one) == "systemd":
			return b.target(ctx)
		case one == agentPath && time.Since(start) < upQuiets: // it is still the agent
			began, since = time.Now(), time.Now()
		}
		load := strings.Fields(b.read("loadavg")) // the last of its words is the newest process there was
		if len(load) > 0 && load[len(load)-1] != last {
			last, since = load[len(load)-1], time.Now()
		}
		switch {
		case b.getty():
			return "somebody can log in", nil
		case time.Since(since) >= upQuiet:
			return "no new process for 2 s", nil
		case time.Since(began) >= upQuiets:
			return fmt.Sprintf("%v went by", upQuiets), nil
		}
		if err := sleep(ctx, upQuiet/10); err != nil {
			return "", err
		}
	}
}

// target waits until systemd has reached its target.
func (b *beside) target(ctx context.Context) (string, error) {
	limit := time.NewTimer(upMost)
	defer limit.Stop()
	select {
	case <-b.gate.up:
		return "systemd has reached its target", nil
	case <-limit.C:
		return fmt.Sprintf("systemd has not reached its target after %v, it is not waited for any longer", upMost), nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// exe is the program of a process; empty where the kernel does not tell.
func (b *beside) exe(process string) string {
	buf := make([]byte, 4096)
	n, err := unix.Readlinkat(b.proc, process+"/exe", buf)
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(buf[:n]), " (deleted)")
}

// getty says whether somebody can log in.
func (b *beside) getty() bool {
	fd, err := unix.Openat(b.proc, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	dir := os.NewFile(uintptr(fd), "proc")
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	for _, name := range names {
		if _, err := strconv.Atoi(name); err != nil {
			continue
		}
		if comm := b.read(name + "/comm"); strings.HasSuffix(comm, "getty") || comm == "login" {
			return true
		}
	}
	return false
}

// Run listens for the end of the system: systemd's guard is asked to stop, or another init asks everybody to, which leaves
// them a second. That one is stopped for as long as there is something to take home.
func (b *beside) Run(ctx context.Context) error {
	return group{b.hold.Run, b.gate.Run, func(ctx context.Context) error {
		select {
		case <-b.gate.down:
		case <-b.term:
			b.hold.ask()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		close(b.down)
		<-ctx.Done()
		return context.Cause(ctx)
	}}.Run(ctx)
}

// Leave lets the system go on with its end.
func (b *beside) Leave() {
	close(b.gate.away)
	b.hold.let()
}

// hold stops process 1, by tracing it: nothing else can. The kernel lets it go when the tracer ends, however that ends.
type hold struct{ asked, free chan struct{} }

func newHold() *hold { return &hold{make(chan struct{}), make(chan struct{})} }

func (h *hold) ask() { close(h.asked) }
func (h *hold) let() { close(h.free) }

// Run is the tracer, which is one thread of the kernel's.
func (h *hold) Run(ctx context.Context) error {
	select {
	case <-h.asked:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	runtime.LockOSThread() // never unlocked: the thread ends with its tracing
	if err := unix.PtraceSeize(1); err == nil {
		if err := unix.PtraceInterrupt(1); err == nil {
			unix.Wait4(1, nil, unix.WALL, nil)
		}
	}
	select {
	case <-h.free:
	case <-ctx.Done():
	}
	unix.PtraceDetach(1)
	<-ctx.Done()
	return context.Cause(ctx)
}

// restartNow restarts the machine with what its disks can be given in ten seconds.
func restartNow(ctx context.Context) error {
	err := group{
		func(context.Context) error { unix.Sync(); return errDone },
		func(ctx context.Context) error {
			if err := sleep(ctx, 10*time.Second); err != nil {
				return err
			}
			return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
		},
	}.Run(ctx)
	return errors.Join(err, unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART))
}
