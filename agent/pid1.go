package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"carte/lab"
	"carte/lab/initrd"
)

// memory is how much the agent may use before it collects its garbage harder. The smallest machine has 512 MB.
const memory = 96 << 20

// again is how long a machine waits, after an attempt that failed and that the server knows of, before it asks for its
// next boot: long enough to read why, and for a power driver to be faster.
const again = 20 * time.Second

// PID1 is the agent as process 1 of a machine. It never returns: a process 1 that ends takes the kernel with it.
//
// Whatever goes wrong is told to the server, shown on the machine's consoles, and waited upon. The machine restarts only
// when the server said so, or when it has written down that the attempt failed and that there will be another; it counts
// the attempts, so this ends.
func PID1() {
	debug.SetMemoryLimit(memory)
	debug.SetGCPercent(-1) // below that there is nothing to save: this process ends when the user's system begins
	p := &pid1{console: os.Stdout}
	for {
		group{reap, p.run}.Run(context.Background()) // neither returns
		time.Sleep(time.Hour)
	}
}

type pid1 struct {
	console io.Writer
	cmdline string
	tree    *composition // what prepare has put together
	task    shimTask     // and what its shim is told
	net     *network     // how the server is reached
	loaded  bool         // a kernel is ready to replace this one
}

func (p *pid1) run(ctx context.Context) error {
	err := caught(ctx, p.live)
	p.show(err)
	if end := (*Ended)(nil); errors.As(err, &end) && end.Again {
		time.Sleep(again)
		err = restart()
		p.show(fmt.Errorf("the machine did not restart: %w", err))
	}
	for {
		time.Sleep(time.Hour)
	}
}

// live is the agent's life on a real machine. It returns only with an error.
func (p *pid1) live(ctx context.Context) error {
	if err := mounts(); err != nil {
		return err
	}
	p.console = consoles()
	b, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	p.cmdline = string(b)
	if name, err := os.ReadFile(initrd.Alone); err == nil {
		return p.alone(ctx, strings.TrimSpace(string(name)))
	}
	if _, err := os.Stat(stageFile); err == nil {
		err := p.second(ctx)
		io.WriteString(p.console, "::carte fail "+err.Error()+"\n")
		return &Ended{Err: &secondEnded{err}, Again: true}
	}
	o := Options{
		Server:    argument(p.cmdline, lab.ArgServer),
		Pin:       argument(p.cmdline, lab.ArgPin),
		Token:     argument(p.cmdline, lab.ArgToken),
		Inventory: here.inventory,
		OpenDisk:  here.openDisk,
		ReadDisk:  here.readDisk,
		Node:      here.nodeOf,
		Prepare:   p.prepare,
		Handover:  p.handover,
		Terminals: terminals,
		Peers:     true,
		Console:   p.console,
	}
	if o.Server == "" {
		return fmt.Errorf("the kernel's command line has no %s; this agent was not started by carte: %w", lab.ArgServer, lab.ErrInvalid)
	}
	v := &voice{console: p.console, log: discard}
	n := &network{first: lab.MAC(strings.ToLower(argument(p.cmdline, lab.ArgMAC))), say: v.say}
	p.net = n
	if err := n.up(ctx); err != nil {
		return err
	}
	return group{n.keep, func(ctx context.Context) error {
		err := Run(ctx, o)
		if err == nil {
			err = errors.New("BUG: the handover came back")
		}
		return err
	}}.Run(ctx)
}

// secondEnded is why a second stage could not start its system. The server has been told, where it could be reached.
type secondEnded struct{ error }

// mounts puts the kernel's file systems where they belong. A folder that has one already is fine.
func mounts() error {
	for _, m := range []struct{ kind, at, data string }{
		{"devtmpfs", "/dev", "mode=0755"},
		{"proc", "/proc", ""},
		{"sysfs", "/sys", ""},
		{"tmpfs", "/run", "mode=0755"},
	} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.at, m.kind, unix.MS_NOSUID, m.data); err != nil && err != unix.EBUSY {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	return nil
}

// screens writes to all of the machine's consoles: a person looks at the screen, carte at the serial line. /dev/console
// is only the last of them.
type screens []io.Writer

func (s screens) Write(b []byte) (int, error) {
	for _, w := range s {
		w.Write(b) // one that is broken must not silence the others
	}
	return len(b), nil
}

func consoles() io.Writer {
	var all screens
	active, _ := os.ReadFile("/sys/class/tty/console/active")
	for _, name := range strings.Fields(string(active)) {
		if f, err := os.OpenFile("/dev/"+name, os.O_WRONLY|unix.O_NOCTTY, 0); err == nil {
			all = append(all, f)
		}
	}
	if len(all) == 0 {
		return os.Stdout // the kernel opened it
	}
	return all
}

// terminals opens the machine's consoles for somebody who types: the kernel echoes and edits the line.
func terminals() ([]io.ReadWriteCloser, error) {
	var all []io.ReadWriteCloser
	active, _ := os.ReadFile("/sys/class/tty/console/active")
	for _, name := range strings.Fields(string(active)) {
		f, err := os.OpenFile("/dev/"+name, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		all = append(all, f)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("this machine has no console: %w", lab.ErrNotFound)
	}
	return all, nil
}

// show prints why the agent's life is over, so that it is still there when somebody comes.
func (p *pid1) show(err error) {
	next := "Nothing more happens here. Switch the machine off and on to try again."
	if errors.As(err, new(*secondEnded)) {
		next = fmt.Sprintf("The machine restarts in %v and asks its server.", again)
	} else if end := (*Ended)(nil); errors.As(err, &end) && end.Again {
		next = fmt.Sprintf("The server knows. The machine restarts in %v and asks for its next attempt.", again)
	} else if end != nil {
		next = "The server knows, and does not try again by itself: carte boot show tells more."
	} else if errors.Is(err, lab.ErrDenied) {
		next = "The server does not let this agent work any more. The machine can be switched off."
	}
	bar := strings.Repeat("=", 78)
	text := []string{"", bar, " carte: " + plainly(err), "", " " + next, bar, ""}
	if c := (*crash)(nil); errors.As(err, &c) {
		text = append([]string{c.stack}, text...)
	}
	io.WriteString(p.console, strings.Join(text, "\n")+"\n")
}

// reap takes leave of processes that nobody waits for, which is process 1's to do.
func reap(ctx context.Context) error {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	defer signal.Stop(ended)
	for {
		select {
		case <-ended:
			for {
				if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); pid <= 0 && err != unix.EINTR {
					break
				}
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// restart gives the machine back to its firmware. It returns only with an error.
func restart() error {
	unix.Sync()
	return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}
