package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// GuardName is the name of systemd's view of the shim: a unit that systemd starts when it is up, and stops before anything
// else when it goes down. Its process only holds a connection to the shim.
const GuardName = "carte-guard"

// guardSocket is where the shim and its guard meet: an abstract address, which no file system has to carry.
const guardSocket = "@carte-shim"

// guardUnit is ordered behind everything that a start reaches, so that a stop reaches it first, while the network and all
// file systems are still there. The program is the shim's own, wherever its file went.
const guardUnit = `[Unit]
Description=carte beside this system: results are taken home before it stops
DefaultDependencies=no
After=default.target network.target
Conflicts=shutdown.target
Before=shutdown.target

[Service]
ExecStart=@/proc/%d/exe ` + GuardName + `
KillMode=process
TimeoutStopSec=90
StandardOutput=null
StandardError=null
`

// runUnits is where systemd reads units that last until the power goes.
const runUnits = "/run/systemd/system"

// leaveUnit leaves the guard's unit for a systemd that has not started yet. Nothing of it is left for another init, which
// programs would take for systemd when that folder is there.
func leaveUnit(init string, pid int) error {
	if !isSystemd(init) {
		return nil
	}
	wants := filepath.Join(runUnits, "default.target.wants")
	if err := os.MkdirAll(wants, 0o755); err != nil {
		return err
	}
	unit := filepath.Join(runUnits, "carte-shim.service")
	if err := os.WriteFile(unit, fmt.Appendf(nil, guardUnit, pid), 0o644); err != nil {
		return err
	}
	if err := os.Symlink("../carte-shim.service", filepath.Join(wants, "carte-shim.service")); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

// Guard is the guard's whole life. It returns the code to exit with.
func Guard() int {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	c, err := net.Dial("unix", guardSocket)
	if err != nil {
		return 1 // the shim has ended: there is nothing to hold up a stop for
	}
	defer c.Close()
	<-stop
	c.(*net.UnixConn).CloseWrite()
	io.Copy(io.Discard, c) // ends when the shim has taken home what there is, or has ended
	return 0
}

// A gate tells of systemd what the guard sees.
type gate struct {
	up, down chan struct{} // closed when the system is up, and when it begins to stop
	away     chan struct{} // to be closed when it may
}

func newGate() *gate {
	return &gate{make(chan struct{}), make(chan struct{}), make(chan struct{})}
}

// Run listens for the guard until ctx ends. Only root's processes are listened to.
func (g *gate) Run(ctx context.Context) error {
	l, err := net.Listen("unix", guardSocket)
	if err != nil {
		return nil // the system is then taken to be up after a time, and held by nobody
	}
	return group{
		func(ctx context.Context) error { <-ctx.Done(); l.Close(); return context.Cause(ctx) },
		func(ctx context.Context) error {
			for {
				c, err := l.Accept()
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if err != nil {
					return err
				}
				if !rootsOwn(c.(*net.UnixConn)) {
					c.Close()
					continue
				}
				return g.hold(ctx, c)
			}
		},
	}.Run(ctx)
}

// hold is the life of the one connection: while it lasts the system is up, at its end the system waits.
func (g *gate) hold(ctx context.Context, c net.Conn) error {
	defer c.Close()
	close(g.up)
	free := context.AfterFunc(ctx, func() { c.Close() })
	defer free()
	io.Copy(io.Discard, c)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	close(g.down)
	select {
	case <-g.away:
	case <-ctx.Done():
	}
	c.Close()
	<-ctx.Done()
	return context.Cause(ctx)
}

func rootsOwn(c *net.UnixConn) (own bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		own = err == nil && cred.Uid == 0
	})
	return own
}
