// Command carte netboots the spare machines beside your desk and lays operating systems on their disks. This file is
// wiring and nothing else: it hands the parts to one another, and the whole to the command line.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"carte/agent"
	"carte/lab"
	"carte/lab/remote"
	"carte/netboot"
	"carte/netboot/payload"
	"carte/netboot/power"
	"carte/netboot/qemu"
	"carte/store"
	"carte/store/media"
	"carte/tui"
	"carte/tui/cli"
	_ "carte/tui/quiet" // no package before it may ask the terminal anything
)

var version = "unknown" // set by make build

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // the second Ctrl-C is the kernel's
	os.Exit(cli.Run(ctx, host(), cli.Standard(), os.Args[1:]))
}

func host() cli.Host {
	return cli.Host{Version: version, Open: open, Has: has, Serve: serve, Screen: screen, DemoImage: demoImage, Kernel: payload.Payload{}.Kernel, Fits: power.Fits, Movers: cli.Movers{Flash: flash, Capture: capture}}
}

// flash and capture are the agent's, on this computer.
func flash(ctx context.Context, from lab.Source, o lab.Flash, hear func(lab.Progress), say func(string)) (lab.Flashed, error) {
	return agent.Flash(ctx, from, o, agent.Audience{Progress: hear, Say: say})
}

func capture(ctx context.Context, to lab.Depot, c lab.Capture, bases []lab.Version, hear func(lab.Progress), say func(string)) (lab.Flashed, lab.Imported, error) {
	return agent.Capture(ctx, to, c, bases, agent.Audience{Progress: hear, Say: say})
}

// open opens a state folder for one command. Nothing in it starts.
func open(ctx context.Context, dir string) (lab.Desk, func() error, error) {
	s, err := store.Open(ctx, dir)
	if err != nil {
		return nil, nil, err
	}
	for _, n := range s.Notes { // a command has no log
		fmt.Fprintln(os.Stderr, lab.Clean(n))
	}
	l, err := lab.Open(ctx, lab.Config{Book: s.DB, Now: time.Now, Secret: s.Secret, Kinds: s.Kinds, KindsAt: s.KindsFile(), Still: true})
	if err != nil {
		return nil, nil, errors.Join(err, s.Close())
	}
	return &store.Desk{Lab: l, State: s, Looks: []look{virtual, inside}, Agent: payload.Payload{}.Agent, Still: true}, s.Close, nil
}

// has says whether a folder is a lab's, also of one that lost its catalogue. What cannot be looked at, store.Open says.
func has(dir string) bool {
	for _, name := range []string{"lab.db", "versions", "chunks"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil || !errors.Is(err, os.ErrNotExist) {
			return true
		}
	}
	return false
}

// serve runs a lab: everything listens, then everything runs, then with begins; the first that ends ends all.
func serve(ctx context.Context, o cli.ServeOptions, with func(context.Context, lab.Desk) error) (err error) {
	desk, err := hold(ctx, o.State)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, desk.State.Close()) }()
	disks := filepath.Join(o.State, "vm")
	now, err := desk.Watch(ctx, 0)
	if err != nil {
		return err
	}
	if err := power.Sweep(disks, now.Machines); err != nil {
		return err
	}
	boot := payload.Payload{Dir: o.Config.BootFiles}
	if err := boot.Check(); err != nil {
		return err
	}
	log := slog.New(&plain{lab: desk.Lab, also: o.Log})
	nb, err := server(desk, boot, o.Config, log)
	if err != nil {
		return err
	}
	desk.Looks, desk.Agent = []look{virtual, nb.Doctor}, boot.Agent
	vms := &power.QEMU{
		Dir: disks, Boot: nb.ScriptURL,
		Console: func(m lab.Machine, lines []string) {
			if err := desk.Lab.Console(ctx, m.ID, lines); err != nil && ctx.Err() == nil {
				log.Error("console not heard", "machine", m.Label(), "err", err)
			}
		},
		Ended: func(m lab.Machine, why error) {
			if err := desk.Lab.Powered(ctx, lab.Powered{Machine: m.ID, State: power.StateOff, Err: why}); err != nil && ctx.Err() == nil {
				log.Error("power state not noted", "machine", m.Label(), "err", err)
			}
		},
	}
	desk.Keys = vms.Type
	drivers := power.Set{"qemu": vms, "wol": power.WOL{Interface: o.Config.Interface}, "exec": power.Exec{}, "manual": power.Manual{}}
	people := &remote.Server{Desk: desk, Dir: o.State, Version: version, Log: log}
	if err := nb.Listen(ctx); err != nil {
		return err
	}
	if err := people.Listen(); err != nil {
		return err
	}
	runner := &power.Runner{Lab: desk.Lab, Driver: drivers, Log: log}
	return together(ctx, desk.Lab.Run, nb.Run, vms.Run, runner.Run, people.Run, func(ctx context.Context) error {
		if err := with(ctx, desk); err != nil {
			return err
		}
		return errLeft
	})
}

// hold opens the state, and waits a little for a command that has it open.
func hold(ctx context.Context, dir string) (*store.Desk, error) {
	for giveUp := time.Now().Add(3 * time.Second); ; {
		desk, err := store.Hold(ctx, dir, time.Now)
		if !errors.Is(err, lab.ErrBusy) || time.Now().After(giveUp) {
			return desk, err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// server makes the servers for machines. Their certificate is made once: its hash is on agents' command lines.
func server(desk *store.Desk, boot payload.Payload, c cli.LabConfig, log *slog.Logger) (*netboot.Server, error) {
	text, err := desk.State.File("agents-api.pem", func() ([]byte, error) {
		cert, key, err := netboot.NewCertificate()
		return append(cert, key...), err
	})
	if err != nil {
		return nil, err
	}
	var cert tls.Certificate
	if cert, err = netboot.ReadCertificate(text, text); err != nil {
		return nil, err
	}
	pool, err := c.Addresses()
	if err != nil {
		return nil, err
	}
	initramfs := func() ([]byte, error) {
		agent, err := boot.Agent()
		if err != nil {
			return nil, err
		}
		return payload.Initramfs(agent)
	}
	return netboot.New(netboot.Config{
		Kernels: desk, Home: desk, Stages: filepath.Join(desk.State.Dir, "stages"),
		Lab: desk.Lab, Chunks: desk.State.Chunks, Mend: desk.Mend, Sink: desk, Log: log, Cert: cert,
		Payload:   netboot.Payload{Kernel: boot.Kernel, Initramfs: initramfs, IPXE: boot.IPXE},
		Interface: c.Interface, DHCP: c.DHCP, Pool: pool, Listen: c.Listen, ListenAPI: c.ListenAPI,
	})
}

// errLeft ends the lab because its screen was left.
var errLeft = errors.New("left")

// together runs all of it until the first ends, and waits for the others.
func together(ctx context.Context, all ...func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, run := range all {
		wg.Go(func() { cancel(run(ctx)) })
	}
	wg.Wait()
	if err := context.Cause(ctx); err != errLeft {
		return err
	}
	return nil
}

func screen(ctx context.Context, desk lab.Desk, o cli.ScreenOptions) error {
	t := tui.Options{Name: o.Name, Start: o.Start, Command: o.Command, Program: o.Program}
	if o.Own {
		t.Leave = tui.CutOff
	}
	return tui.Run(ctx, desk, t)
}

// look is one who answers the doctor.
type look = func(context.Context) []lab.Finding

// virtual says whether this computer can run virtual machines.
func virtual(ctx context.Context) []lab.Finding {
	vm := lab.Finding{What: "virtual machines", Must: true}
	if tools, err := qemu.Find(ctx); err != nil {
		vm.Why, vm.Fix = lab.Words(err), qemu.Install
	} else {
		vm.OK, vm.Why = true, "QEMU "+tools.Version
	}
	return []lab.Finding{vm}
}

// inside says whether this carte has what machines boot. Where a lab runs, its server looks closer.
func inside(context.Context) []lab.Finding {
	files := lab.Finding{What: "kernel and agent", Must: true, OK: payload.Payload{}.Has(), Why: "inside this carte"}
	if !files.OK {
		files.Why, files.Fix = payload.ErrMissing.Error(), "make build"
	}
	return []lab.Finding{files}
}

// demoImage makes the demo system's file system. The same program gives the same bytes.
func demoImage(ctx context.Context) (io.ReadCloser, error) {
	files, err := payload.Payload{}.DemoTree()
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp("", "carte-demo-*.ext4")
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(files)
	err = errors.Join(os.Remove(f.Name()), media.Tree(ctx, bytes.NewReader(files), f, media.TreeOptions{Label: "carte-demo", UUID: [16]byte(sum[:16])}))
	if _, seekErr := f.Seek(0, io.SeekStart); err != nil || seekErr != nil {
		return nil, errors.Join(err, seekErr, f.Close())
	}
	return f, nil
}
