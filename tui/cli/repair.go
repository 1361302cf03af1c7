package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/charmbracelet/x/term"
	"github.com/spf13/pflag"

	"carte/lab"
)

func (c *call) repairCommands() []entry {
	var base bool
	var wait waiting
	return []entry{
		{
			use: "machine repair MACHINE", action: "boot.repair",
			long: "Restart a machine into a repair: the agent opens a shell on its consoles, with the machine image at /carte/machine, and writes nothing unless it is asked to. " +
				"carte console MACHINE types there, when it is a virtual machine. With --reflash-base nobody is asked: the base layer is written again where it differs, images of users and changes stay as they are, and the machine restarts.",
			example: "  carte machine repair nuc-1\n  carte machine repair nuc-1 --reflash-base --wait done",
			flags: func(f *pflag.FlagSet) {
				f.BoolVar(&base, "reflash-base", false, "write the base layer again, and nothing else")
				wait.flags(f, "wait until the repair has reached a rung, or is done", "5m")
			},
			run: func(ctx context.Context, args []string) error {
				return c.begin(ctx, wait, func(d desk) (lab.Boot, lab.Snapshot, error) {
					return queueBoot(ctx, d, lab.QueueRepair{Machine: args[0], Base: base})
				})
			},
		},
		{
			use: "console MACHINE", help: "type on the serial console of a virtual machine; ctrl+] leaves",
			long: "Show what a virtual machine writes to its serial console, line by line, and type there. Every key goes to the machine, ctrl+c too; ctrl+] leaves. What is not a terminal is typed to its end.",
			run: func(ctx context.Context, args []string) error {
				return c.live(seeing(ctx, func(d desk, s lab.Snapshot) error { return c.console(ctx, d, s, args[0]) }))
			},
		},
	}
}

// leaveKey is ctrl+].
const leaveKey = 0x1d

// console types what comes in and shows what the machine writes, until the person leaves or what comes in ends.
func (c *call) console(ctx context.Context, d desk, s lab.Snapshot, machine string) error {
	m, err := s.Find(machine)
	if err != nil {
		return err
	}
	if m.Virtual != nil && s.Live[m.ID].Power == "off" {
		return fmt.Errorf("%s is off; carte machine power %s on, or boot it: %w", m.Label(), m.Label(), lab.ErrRefused)
	}
	if err := d.client.Type(ctx, m.Label(), nil); err != nil {
		return err
	}
	end := "\n"
	if f, ok := c.term.In.(*os.File); ok && c.term.Asks {
		old, err := term.MakeRaw(f.Fd())
		if err != nil {
			return fmt.Errorf("this terminal cannot be made raw: %w", err)
		}
		defer term.Restore(f.Fd(), old)
		end = "\r\n"
	}
	fmt.Fprintf(c.term.Err, "the console of %s; ctrl+] leaves%s", m.Label(), end)
	return (&consoleView{call: c, desk: d, machine: m, end: end}).Run(ctx)
}

// A consoleView is one look at a machine's console.
type consoleView struct {
	*call
	desk    desk
	machine lab.Machine
	end     string // of a line, on this terminal
}

// Run shows and types. It returns nil when the person has left.
func (v *consoleView) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	shown := make(chan error, 1)
	go func() { shown <- v.show(ctx) }()
	err := v.keys(ctx)
	cancel()
	if e := <-shown; err == nil && !errors.Is(e, context.Canceled) {
		err = e
	}
	return err
}

// keys types until ctrl+], or the end. Reading a terminal cannot be called off: after the lab has gone the next key ends it.
func (v *consoleView) keys(ctx context.Context) error {
	buf := make([]byte, 4096)
	for {
		n, err := v.term.In.Read(buf)
		typed, _, left := bytes.Cut(buf[:n], []byte{leaveKey})
		if len(typed) > 0 {
			if err := v.desk.client.Type(ctx, v.machine.Label(), typed); err != nil {
				return err
			}
		}
		switch {
		case left || err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// show prints what the machine writes from now on.
func (v *consoleView) show(ctx context.Context) error {
	_, next, _, err := v.desk.Tail(ctx, lab.Tail{Machine: v.machine.ID, Max: 1})
	for err == nil {
		var lines []lab.Line
		lines, next, _, err = v.desk.Tail(ctx, lab.Tail{Machine: v.machine.ID, After: next, Wait: true})
		for _, l := range lines {
			if l.Source == "serial" {
				fmt.Fprintf(v.term.Out, "%s%s", lab.Clean(l.Text), v.end)
			}
		}
	}
	return err
}
