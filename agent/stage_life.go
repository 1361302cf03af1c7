package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"carte/lab"
	"carte/lab/initrd"
)

// How long a second stage waits for the disk, whose driver it has just loaded, and for the network.
const (
	diskWait    = time.Minute
	networkWait = time.Minute
)

// second is the life of the second stage: under the stack's own kernel it puts the tree together and becomes its init. It returns
// only with an error.
func (p *pid1) second(ctx context.Context) error {
	b, err := os.ReadFile(stageFile)
	if err != nil {
		return err
	}
	var s stage
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("%s: %w", stageFile, err)
	}
	task := running{shimTask{Server: s.Server, Pin: s.Pin, Token: argument(p.cmdline, lab.ArgToken), Orders: s.Orders}}
	if server := argument(p.cmdline, lab.ArgServer); server != "" { // it may have moved since
		task.Server, task.Pin = server, argument(p.cmdline, lab.ArgPin)
	}
	if key, err := os.ReadFile(stageKey); err == nil {
		task.Key, task.Token = string(key), ""
	}
	v := &voice{console: p.console, log: discard}
	p.net = &network{first: lab.MAC(or(strings.ToLower(argument(p.cmdline, lab.ArgMAC)), string(s.MAC))), say: v.say}
	err = p.compose(ctx, s, &task, v)
	if err == nil {
		task.Lease = p.net.handOver()
		err = p.tree.become(task.shimTask)
	}
	err = fmt.Errorf("the system could not be put together: %w", err)
	if e := p.confess(ctx, &task, v, err); e != nil {
		v.say("its server was not told: %v", e)
	}
	return err
}

// compose puts the tree of a second stage together.
func (p *pid1) compose(ctx context.Context, s stage, task *running, v *voice) error {
	v.say("this is %s; boot %d: %s, under Linux %s", s.Orders.Machine, s.Orders.Boot, s.Orders.Stack, release())
	for _, name := range s.Modules {
		if err := loadModule(filepath.Join(initrd.Modules, name)); err != nil {
			v.say("module %s: %v", name, err)
		}
	}
	if err := here.waitForDisk(ctx, s.Orders); err != nil {
		return err
	}
	if !s.Orders.Compose.Gives(lab.Network) || anyLazy(s.Orders) { // what is not here yet comes over it
		if err := p.bringUp(ctx); err != nil {
			v.say("the system starts without a network: %v", err)
		}
		if err := task.claim(ctx, v); err != nil {
			return err
		}
	}
	h, _, err := here.withLazy(ctx, lazyTask{Server: task.Server, Pin: task.Pin, Key: task.Key, Orders: s.Orders, Say: v.say})
	if err != nil {
		return err
	}
	p.tree, err = h.compose(ctx, s.Orders)
	return err
}

// confess tells the server why its system did not start, for which the network may have to come up first.
func (p *pid1) confess(ctx context.Context, task *running, v *voice, why error) error {
	if errors.Is(why, lab.ErrDenied) {
		return nil // it has said so itself
	}
	if p.net.lease.Load() == nil {
		if err := p.bringUp(ctx); err != nil {
			return err
		}
	}
	if err := task.claim(ctx, v); err != nil || task.Key == "" { // the server does not answer, which is said
		return err
	}
	return unstarted(ctx, task.shimTask, v, why)
}

// unstarted tells the server, by the right of a shim that there will not be, why its boot's system did not start: of a machine whose
// console carte does not read, nobody else would tell.
func unstarted(ctx context.Context, task shimTask, v *voice, why error) error {
	ctx, cancel := context.WithTimeout(ctx, networkWait)
	defer cancel()
	c, err := newClient(Options{Server: task.Server, Pin: task.Pin, Interval: time.Second}, v)
	if err != nil {
		return err
	}
	defer c.http.CloseIdleConnections()
	c.key = task.Key
	lines, _ := v.unsaid()
	_, err = c.report(ctx, lab.Report{Boot: task.Orders.Boot, Shim: true, Error: plainly(why), Lines: lines})
	return err
}

// running is a shim's task before there is a shim.
type running struct{ shimTask }

// claim redeems the token of a kernel that came over the network, where that works within the time that a network has. Else the
// shim does it, once the user's system has brought the network up.
func (r *running) claim(ctx context.Context, v *voice) error {
	if r.Key != "" || r.Token == "" {
		return nil
	}
	c, err := newClient(Options{Server: r.Server, Pin: r.Pin, Token: r.Token, Interval: time.Second}, v)
	if err != nil {
		return err
	}
	within, cancel := context.WithTimeout(ctx, networkWait)
	defer cancel()
	o, err := c.claim(within, lab.Inventory{})
	c.http.CloseIdleConnections()
	switch {
	case err != nil && within.Err() != nil && ctx.Err() == nil:
		v.say("the server does not answer: %v", err)
	case err != nil:
		return fmt.Errorf("claim: %w", err)
	case o.Do != lab.DoRun:
		return fmt.Errorf("the server does not want this system to start: %s: %w", or(o.Why, o.Do), lab.ErrDenied)
	default:
		r.Key, r.Token = c.key, ""
	}
	return nil
}

// bringUp waits for the network, but not for ever.
func (p *pid1) bringUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, networkWait, fmt.Errorf("there was none in %v", networkWait))
	defer cancel()
	return p.net.up(ctx)
}

// release is the kernel's own name for itself.
func release() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "of an unknown release"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// loadModule loads one module. One that the kernel has already, or whose hardware is not there, is fine.
func loadModule(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	flags := 0
	if !strings.HasSuffix(file, ".ko") {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	err = unix.FinitModule(int(f.Fd()), "", flags)
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENODEV) {
		err = nil
	}
	return errors.Join(err, f.Close(), os.Remove(file)) // it is in the kernel's memory now, and was in the machine's twice
}

// waitForDisk returns when the kernel has found the one disk of the orders, and its partitions.
func (h host) waitForDisk(ctx context.Context, o lab.Orders) error {
	for end := time.Now().Add(diskWait); ; {
		d, err := h.find(o.Disk)
		if err == nil {
			_, err = h.nodes(d, o)
		}
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("waited %v for disk %s under Linux %s, does its kernel have a driver for it? %w", diskWait, o.Disk, release(), err)
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}
