package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"carte/lab"
	"carte/lab/remote"
)

func (c *call) serveCommands() []entry {
	var flags LabConfig
	var demo demoOptions
	return []entry{
		{
			use: "serve", help: "run the lab without a screen",
			long:    "Run the lab without a screen, until it is interrupted. Settings come from config.toml in the state folder; flags go before them.",
			example: "  carte serve\n  carte serve --interface eth1 --dhcp server --pool 10.77.0.100-10.77.0.199",
			flags: func(f *pflag.FlagSet) {
				f.Var(notEmpty{&flags.Name, "NAME"}, "name", "the lab's name (default: this computer's)")
				f.Var(notEmpty{&flags.Interface, "NIC"}, "interface", "network interface of the lab; machines are answered there and nowhere else")
				f.Var(notEmpty{&flags.DHCP, "MODE"}, "dhcp", "auto, server, proxy (beside another DHCP server) or off (default auto)")
				f.Var(notEmpty{&flags.Pool, "FIRST-LAST"}, "pool", "addresses to lend, FIRST-LAST (default: the upper half of the interface's network)")
				f.Var(notEmpty{&flags.Listen, "ADDRESS"}, "listen", "address and port of HTTP")
				f.Var(notEmpty{&flags.ListenAPI, "ADDRESS"}, "listen-api", "address and port of the agents' API")
				f.Var(notEmpty{&flags.BootFiles, "DIR"}, "boot-files", "folder whose vmlinuz, agent, undionly.kpxe or ipxe.efi go before those inside carte")
			},
			run: func(ctx context.Context, _ []string) error { return c.serve(ctx, flags) },
		},
		{
			use: "demo", help: "boot carte's own demo system on a virtual machine, and measure it",
			long:    "Add a virtual machine, import the demo system, boot it and show it on the screen; without a screen, wait for it and show what it measured. The demo has a lab of its own beside yours. Running it again is the second boot of the same disk.",
			example: "  carte demo\n  carte demo --headless --json",
			flags: func(f *pflag.FlagSet) {
				f.BoolVar(&demo.headless, "headless", false, "without the screen; --json implies it")
				f.StringVar(&demo.firmware, "firmware", "bios", "bios or uefi")
				f.DurationVar(&demo.timeout, "timeout", demoTimeout, "how long the boot may take, without the screen")
			},
			run: func(ctx context.Context, _ []string) error { return c.demo(ctx, demo) },
		},
	}
}

// settings are the flags over the settings file of a state folder.
func settings(state string, flags LabConfig) (LabConfig, error) {
	file, err := readConfig(state)
	if err != nil {
		return LabConfig{}, err
	}
	all := flags.over(file)
	if err = all.check(); err == nil {
		err = all.bootFolder()
	}
	if err != nil && errors.Join(file.check(), file.bootFolder()) != nil {
		err = fmt.Errorf("%s: %w", filepath.Join(state, ConfigName), err)
	}
	if all.Name == "" {
		if host, err := os.Hostname(); err == nil {
			all.Name, _, _ = strings.Cut(host, ".")
		}
	}
	return all, err
}

// serve runs the lab until it is interrupted, which is its proper end.
func (c *call) serve(ctx context.Context, flags LabConfig) error {
	state, err := c.stateDir()
	if err != nil {
		return err
	}
	cfg, err := settings(state, flags)
	if err != nil {
		return err
	}
	if cl, err := remote.Dial(state); err == nil {
		return errors.Join(fmt.Errorf("a lab runs in %s already; carte in another terminal shows it, --state DIR takes another: %w", state, lab.ErrBusy), cl.Close())
	}
	err = c.host.Serve(ctx, ServeOptions{State: state, Config: cfg, Log: c.term.Err}, func(ctx context.Context, _ lab.Desk) error {
		c.note("carte serves the lab in %s; carte in another terminal shows it; Ctrl-C ends it", state)
		<-ctx.Done()
		return ctx.Err()
	})
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return nil
	}
	return err
}

// screen shows the lab that runs, or runs one and shows that.
func (c *call) screen(ctx context.Context, start string) error {
	if !c.term.Asks || !c.term.Table {
		return fmt.Errorf("the screen needs a terminal; carte status and carte --help work without one: %w", lab.ErrInvalid)
	}
	state, err := c.stateDir()
	if err != nil {
		return err
	}
	cfg, err := settings(state, LabConfig{})
	if err != nil {
		return err
	}
	cl, err := remote.Dial(state)
	switch {
	case err == nil:
		defer cl.Close()
		return c.host.Screen(ctx, cl, c.screenOptions(cfg.Name, start, false))
	case !errors.Is(err, lab.ErrUnreachable):
		return err
	}
	return c.host.Serve(ctx, ServeOptions{State: state, Config: cfg}, func(ctx context.Context, d lab.Desk) error {
		return c.host.Screen(ctx, d, c.screenOptions(cfg.Name, start, true))
	})
}

func (c *call) screenOptions(name, start string, own bool) ScreenOptions {
	return ScreenOptions{Name: name, Start: start, Own: own, Command: c.inside, Program: c.program}
}

// program is the command line by which another carte carries out a command in this lab.
func (c *call) program(args ...string) ([]string, error) {
	state, err := c.stateDir()
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return append(append([]string{self}, args...), "--state", state), nil
}

// inside carries out a command line that was typed on the screen, in the lab that the screen shows, and returns what it
// wrote. The lab's socket answers it: it is the same as from another terminal.
func (c *call) inside(ctx context.Context, line string) (string, error) {
	args, err := splitLine(line)
	if err != nil {
		return "", err
	}
	if len(args) == 0 || args[0] == "serve" || args[0] == "demo" {
		return "", fmt.Errorf("%q cannot be done from the screen: %w", line, lab.ErrInvalid)
	}
	state, err := c.stateDir()
	if err != nil {
		return "", err
	}
	var out, errs strings.Builder
	t := Terminal{In: strings.NewReader(""), Out: &out, Err: &errs, Table: true, Env: c.term.Env, Now: c.term.Now}
	sub := &call{host: c.host, term: t}
	root := sub.tree()
	root.SetArgs(append(args, "--state", state))
	if err := root.ExecuteContext(ctx); err != nil {
		return out.String(), err
	}
	return out.String() + errs.String(), nil
}

// splitLine takes a command line apart as a POSIX shell would: words, quotes, backslashes; nothing is expanded.
func splitLine(line string) (words []string, err error) {
	var word strings.Builder
	in, quote, escaped := false, rune(0), false
	for _, r := range line {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			in, escaped = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			in, quote = true, r
		case r == ' ' || r == '\t':
			if in {
				words = append(words, word.String())
				word.Reset()
			}
			in = false
		default:
			in = true
			word.WriteRune(r)
		}
	}
	if quote != 0 || escaped {
		return nil, fmt.Errorf("%q ends inside a quotation: %w", line, lab.ErrInvalid)
	}
	if in {
		words = append(words, word.String())
	}
	return words, nil
}
