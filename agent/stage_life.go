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
		p.bringUp(ctx, &network{first: lab.MAC(or(strings.ToLower(argument(p.cmdline, lab.ArgMAC)), string(s.MAC))), voice: v})
		if err := task.claim(ctx, v); err != nil {
			return err
		}
	}
	h, _, err := here.withLazy(ctx, lazyTask{Server: task.Server, Pin: task.Pin, Key: task.Key, Orders: s.Orders, Say: v.say})
	if err != nil {
		return err
	}
	tree, err := h.compose(ctx, s.Orders)
	if err != nil {
		return err
	}
	return tree.become(task.shimTask)
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

// bringUp gives the user's system the network that it does not bring up itself. It goes on without.
func (p *pid1) bringUp(ctx context.Context, n *network) {
	ctx, cancel := context.WithTimeoutCause(ctx, networkWait, fmt.Errorf("there was none in %v", networkWait))
	defer cancel()
	if err := n.up(ctx); err != nil {
		n.say("the system starts without a network: %v", err)
	}
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
