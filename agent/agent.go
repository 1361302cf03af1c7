// Package agent is everything that runs on a machine while carte owns it: it is the machine's process 1, in memory,
// between the firmware and the user's own system.
//
// Its life is short. It brings up the network, claims its orders with the single-use token from its command line, and
// tells the server what the machine is made of. A boot is: look at the one disk that the orders name, read and hash it,
// fetch and write only what differs, read back what was written, tell the server, start the user's system. The server is
// asked and never asks; it may be away at any moment, for as long as it likes.
//
//	agent.go      the life, against an interface of the machine, so that tests live it with a file as the disk
//	work.go       one boot: the rungs, what is counted and told
//	flash.go      making a disk equal to a plan: compare.go, transfer.go, verify.go are its steps, layout.go the tables
//	peer.go       chunks from and for machines that lay the same image at the same time
//	client.go     what is asked of the server
//	device.go     the disk; disk.go, probe.go and inventory.go find out which there are and what is on them
//	reset.go      how little of a disk that was proven is looked at again
//	pid1.go       process 1: mounts, consoles, the end; net.go the network, handover.go the start of the user's system
//	compose.go    a tree that is put together of its layers: compose_files.go writes into it, compose_scratch.go takes changes
//	stage.go      the first root of the stack's own kernel, made here: stage_modinfo.go and stage_hardware.go find its modules;
//	              stage_life.go is the agent's life in it
//	lazy.go       layers whose bytes come while the system runs, served by a process of their own: lazy_child.go
//
// The package refuses to know what a lab is, who may do what, and which disk is the right one: orders name it, by
// serial number or WWN and size, and the agent opens no other for writing. It must not link what draws screens or keeps
// databases; a test says so.
package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"carte/lab"
)

// Options is what an agent is started with: how the server is found, and the machine that it runs on.
type Options struct {
	Server string // base URL of the API, https://ADDRESS:PORT
	Pin    string // SHA-256 of the server's certificate, 64 hexadecimal digits
	Token  string // single-use

	// Plain allows an http:// Server, where nothing proves who answers. HTTP, when set, is used instead of the client
	// that pins the certificate. Both are for tests.
	Plain bool
	HTTP  *http.Client

	// Inventory says what the machine is made of. OpenDisk opens for writing the one disk with that name, and refuses
	// when there is none or more than one.
	Inventory func() (lab.Inventory, error)
	OpenDisk  func(lab.DiskID) (Disk, error)

	// ReadDisk opens the one disk with that name, and cannot write to it.
	ReadDisk func(lab.DiskID) (Disk, error)

	// Node, when set, returns the path of the device of that disk, or of the file that stands for it: the machine image at its
	// end is mounted, and its last file system grown. nil: neither happens.
	Node func(lab.DiskID) (string, error)

	// Prepare, when set, is called when the disk is proven and closed, before the server is told; its error fails the
	// attempt. undo is called when the server calls the boot back then. Handover starts what the orders say: the user's
	// system, or with lab.DoLocal the machine's own disk. On a real machine it returns only with an error.
	Prepare  func(context.Context, Ready) (undo func() error, err error)
	Handover func(context.Context, lab.Orders) error

	// Terminals opens the consoles that somebody can type on, for a repair; the agent closes them. nil: there is none.
	Terminals func() ([]io.ReadWriteCloser, error)

	// Peers opens a listener towards the server, through which other machines that lay the same image take chunks from this
	// one while it works, and lets this one take chunks from them.
	Peers bool

	Console  io.Writer     // whole lines for the person in front of the machine; nil: nobody is there
	Log      *slog.Logger  // the same lines; nil: nowhere
	Interval time.Duration // between two reports, 1 s when 0; waiting agents take twice, stopped ones ten times as long
}

// Ready is a boot whose disk is proven and closed.
type Ready struct {
	lab.Orders
	Server, Pin string
	Key         string // the agent's right, which its shim inherits
	Note        string // a line for the machine image, where the shim is to write it

	Say  func(format string, args ...any)              // to the person in front of the machine, and to the server's log
	Send func(ctx context.Context, stage []byte) error // gives the server a second stage, of at most lab.MaxStage bytes

	NoKexec func(ctx context.Context, why error) error // tells the server that this machine cannot replace its kernel
}

// Ended is the error of an attempt whose end the server has written down. Again says that the server tries once more
// when the machine next asks it for a boot.
type Ended struct {
	Err   error
	Again bool
}

func (e *Ended) Error() string { return e.Err.Error() }
func (e *Ended) Unwrap() error { return e.Err }

// discard is a log that nobody reads.
var discard = slog.New(slog.DiscardHandler)

// session is one claimed agent.
type session struct {
	Options
	*voice
	client *client
	found  lab.Inventory // what the machine is made of
}

// Run lives the agent's life and returns nil after a handover that returned nil. An error that wraps lab.ErrDenied means
// that the server has ended this agent's right, also after a revocation; *Ended that an attempt failed and the server
// knows; anything else is what kept the agent from working, ctx's end included. The disk is closed in every case.
func Run(ctx context.Context, o Options) error {
	if o.Interval <= 0 {
		o.Interval = time.Second
	}
	if o.Console == nil {
		o.Console = io.Discard
	}
	if o.Log == nil {
		o.Log = discard
	}
	v := &voice{console: o.Console, log: o.Log}
	c, err := newClient(o, v)
	if err != nil {
		return err
	}
	defer c.http.CloseIdleConnections()
	inv, err := o.Inventory()
	if err != nil {
		return fmt.Errorf("look at the machine: %w", err)
	}
	s := &session{o, v, c, inv}
	orders, err := c.claim(ctx, inv)
	if err != nil {
		return fmt.Errorf("claim: %w", err)
	}
	return s.obey(ctx, orders)
}

// obey carries out orders, and those that follow from them.
func (s *session) obey(ctx context.Context, o lab.Orders) (err error) {
	for {
		switch o.Do {
		case lab.DoWait:
			s.say("this is %s; nothing is queued, the agent waits", o.Machine)
			o, err = s.wait(ctx, o, 2*s.Interval)
		case lab.DoStop:
			s.say("STOPPED: %s", o.Why)
			s.say("nothing on this machine is touched; it can be switched off")
			if o, err = s.wait(ctx, o, 10*s.Interval); err != nil && errors.Is(err, lab.ErrDenied) {
				err = fmt.Errorf("stopped: %s: %w", o.Why, err)
			}
		case lab.DoLocal:
			s.say("%s starts from its own disk", o.Machine)
			return s.Handover(ctx, o)
		case lab.DoBoot:
			switch why := s.boot(ctx, o); {
			case errors.As(why, new(*revoked)):
				o = lab.Orders{Do: lab.DoStop, Why: why.Error(), Machine: o.Machine}
			case why == nil && o.Start == lab.StartLay:
				o = lab.Orders{Do: lab.DoWait, Machine: o.Machine}
			default:
				return why
			}
		case lab.DoCapture:
			next, why := s.capture(ctx, o)
			if errors.As(why, new(*revoked)) {
				next, why = lab.Orders{Do: lab.DoStop, Why: why.Error(), Machine: o.Machine}, nil
			}
			o, err = next, why
		case lab.DoRepair:
			why := s.repair(ctx, o)
			if !errors.As(why, new(*revoked)) {
				return why
			}
			o = lab.Orders{Do: lab.DoStop, Why: why.Error(), Machine: o.Machine}
		default:
			return fmt.Errorf("orders %q: this agent knows wait, boot, capture, repair, local and stop; it is older than its server: %w", o.Do, lab.ErrInvalid)
		}
		if err != nil {
			return err
		}
	}
}

// wait reports until there are orders, and returns them; with an error it returns the old ones.
func (s *session) wait(ctx context.Context, old lab.Orders, every time.Duration) (lab.Orders, error) {
	for {
		lines, mark := s.unsaid()
		reply, err := s.client.report(ctx, lab.Report{Lines: lines})
		if err != nil {
			return old, err
		}
		s.said(mark)
		if reply.Orders != nil && reply.Orders.Do != old.Do {
			return *reply.Orders, nil
		}
		if err := sleep(ctx, every); err != nil {
			return old, err
		}
	}
}
