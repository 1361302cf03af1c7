package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"carte/lab"
)

// quitLimit is how long QEMU gets to end in good order before it is killed.
const quitLimit = 5 * time.Second

// errOff says that the machine is not running.
var errOff = fmt.Errorf("the virtual machine is off: %w", lab.ErrUnreachable)

// VM is one virtual machine from power-on to power-off: New, Run once, and any verb
// from any goroutine while it runs. To switch it on again make a new one.
type VM struct {
	tools   Tools
	spec    Spec
	console io.Writer

	started chan struct{} // closed when QEMU answered
	done    chan struct{} // closed when Run has ended
	off     chan struct{} // closed by PowerOff's fallback: kill
	offOnce sync.Once

	// Set before started is closed, then only read.
	process *os.Process
	monitor *monitor
	serial  net.Conn
}

// New prepares a virtual machine: it checks the spec and makes the files that are
// missing. It starts nothing.
//
// What the machine writes to its serial line goes to console, from the first byte
// on, from one goroutine. A console that blocks stops the machine in the end; its
// first error ends the copying, and Run returns it.
func New(t Tools, s Spec, console io.Writer) (*VM, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	if err := prepare(t, s); err != nil {
		return nil, err
	}
	return &VM{
		tools: t, spec: s, console: console,
		started: make(chan struct{}), done: make(chan struct{}), off: make(chan struct{}),
	}, nil
}

// Run switches the machine on and returns when it is off: nil when its system
// powered it off or PowerOff did, ctx.Err() when ctx ended (QEMU is killed, which
// loses nothing that the machine was told is on disk), else what went wrong, with
// QEMU's own words.
func (v *VM) Run(ctx context.Context) error {
	defer close(v.done)
	// Children die with carte, even with kill -9: the kernel sends them SIGKILL
	// when their parent is gone. But the parent that counts (PR_SET_PDEATHSIG) is
	// the *thread* that forked, and Go ends threads as it likes; so this goroutine
	// keeps its thread for as long as the child lives.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var said tail
	cmd := exec.CommandContext(ctx, v.tools.QEMU, args(v.tools, v.spec)...)
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig: syscall.SIGKILL,
		Setpgid:   true, // a ctrl-C at the terminal is carte's, not QEMU's
	}
	cmd.WaitDelay = quitLimit
	monitorConn, serial, err := v.start(cmd)
	if err != nil {
		return fmt.Errorf("start virtual machine %s: %w", v.spec.Name, err)
	}
	v.process, v.serial, v.monitor = cmd.Process, serial, newMonitor(monitorConn)

	var wg sync.WaitGroup
	var consoleErr error
	wg.Go(func() { consoleErr = copyConsole(v.console, serial) })
	wg.Go(func() {
		// An end of the stream is the end of QEMU, and that is told below.
		_ = v.monitor.run(func() { close(v.started) })
	})
	killed := make(chan struct{})
	wg.Go(func() {
		select {
		case <-v.off:
			cancel()
		case <-killed:
		}
	})
	err = cmd.Wait()
	close(killed)
	wg.Wait() // both streams end with the process; the console is read to its end
	err = v.outcome(ctx, err, &said)
	return errors.Join(err, consoleErr, monitorConn.Close(), serial.Close())
}

// outcome turns the end of the process into the promise of Run.
func (v *VM) outcome(ctx context.Context, err error, said *tail) error {
	select {
	case <-v.off:
		return nil
	default:
	}
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	select {
	case <-v.started:
	default:
		if err != nil {
			return v.refused(err, said)
		}
	}
	if err != nil {
		return fmt.Errorf("virtual machine %s: QEMU ended: %w: %s", v.spec.Name, err, said.last())
	}
	return nil
}

// passing are the words of QEMU for what may be otherwise in a moment.
var passing = []string{"busy", "lock", "Cannot allocate memory", "temporarily"}

// refused is the error of a QEMU that ended before it ran: lab.ErrRefused, unless it may start at the next try.
func (v *VM) refused(err error, said *tail) error {
	words := said.last()
	text := fmt.Sprintf("QEMU does not start %s: %s", v.spec.Name, words)
	var exit *exec.ExitError
	again := slices.ContainsFunc(passing, func(p string) bool { return strings.Contains(words, p) })
	if again || !errors.As(err, &exit) || !exit.Exited() {
		return fmt.Errorf("%s: %w", text, err)
	}
	return fmt.Errorf("%s: %w", text, lab.ErrRefused)
}

// start starts cmd with its ends of the sockets and returns ours.
func (v *VM) start(cmd *exec.Cmd) (monitor, serial net.Conn, err error) {
	monitor, theirMonitor, err := socketPair("monitor")
	if err != nil {
		return nil, nil, err
	}
	defer theirMonitor.Close()
	serial, theirSerial, err := socketPair("console")
	if err != nil {
		return nil, nil, errors.Join(err, monitor.Close())
	}
	defer theirSerial.Close()
	cmd.ExtraFiles = []*os.File{theirMonitor, theirSerial} // the order of the fd constants
	if v.spec.Wire.Socket != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, v.spec.Wire.Socket)
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, errors.Join(err, monitor.Close(), serial.Close())
	}
	return monitor, serial, nil
}

// Started is closed once QEMU runs and answers, or never when it does not start.
func (v *VM) Started() <-chan struct{} { return v.started }

// Done is closed when Run has ended: the machine is off.
func (v *VM) Done() <-chan struct{} { return v.done }

// PID is QEMU's process id, 0 before Started.
func (v *VM) PID() int {
	select {
	case <-v.started:
		return v.process.Pid
	default:
		return 0
	}
}

// Write types p on the machine's serial console.
func (v *VM) Write(p []byte) (int, error) {
	select {
	case <-v.done:
		return 0, errOff
	case <-v.started:
		return v.serial.Write(p)
	default:
		return 0, errOff
	}
}

// State is QEMU's word for what the machine does: "running", "paused", "shutdown",
// "internal-error" and so on (QMP query-status), or "off" when there is no process.
func (v *VM) State(ctx context.Context) (string, error) {
	var r struct{ Status string }
	err := v.command(ctx, "query-status", &r)
	if errors.Is(err, errOff) {
		return "off", nil
	}
	return r.Status, err
}

// Reset is the reset button: no warning to the system that runs.
func (v *VM) Reset(ctx context.Context) error { return v.command(ctx, "system_reset", nil) }

// PowerDown is a short press of the power button. Whether anything happens is up
// to the system that runs.
func (v *VM) PowerDown(ctx context.Context) error { return v.command(ctx, "system_powerdown", nil) }

// PowerOff pulls the plug and returns when the machine is off; a QEMU that does not
// end in 5 s is killed. It is no error when the machine is off already.
func (v *VM) PowerOff(ctx context.Context) error {
	limit, cancel := context.WithTimeout(ctx, quitLimit)
	defer cancel()
	err := v.command(limit, "quit", nil)
	if err == nil {
		select {
		case <-v.done:
			return nil
		case <-limit.Done():
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	v.offOnce.Do(func() { close(v.off) })
	select {
	case <-v.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// command waits until QEMU answers at all, then says one verb.
func (v *VM) command(ctx context.Context, verb string, result any) error {
	select {
	case <-v.done:
		return errOff
	case <-ctx.Done():
		return fmt.Errorf("virtual machine %s: %s: %w", v.spec.Name, verb, ctx.Err())
	case <-v.started:
	}
	err := v.monitor.execute(ctx, verb, result)
	if errors.Is(err, io.EOF) {
		return errOff
	}
	if err != nil {
		return fmt.Errorf("virtual machine %s: %w", v.spec.Name, err)
	}
	return nil
}

// copyConsole copies until the machine is off. After an error of dst it goes on
// reading, because a machine whose serial line is full stops.
func copyConsole(dst io.Writer, src io.Reader) error {
	_, err := io.Copy(dst, src)
	if err == nil || errors.Is(err, syscall.ECONNRESET) {
		return nil
	}
	_, _ = io.Copy(io.Discard, src)
	return fmt.Errorf("console: %w", err)
}

// tail keeps the last 2 KiB of what a process says. Locked, because exec may still
// copy when the process has been given up.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if n := len(t.b) - 2048; n > 0 {
		t.b = append(t.b[:0], t.b[n:]...)
	}
	return len(p), nil
}

// last is the last line of it, without the program's name.
func (t *tail) last() string {
	lines := strings.Split(strings.TrimSpace(t.String()), "\n")
	line := lines[len(lines)-1]
	if _, rest, ok := strings.Cut(line, "qemu-system-x86_64: "); ok {
		return rest
	}
	return line
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.b) == 0 {
		return "it said nothing"
	}
	return string(t.b)
}
