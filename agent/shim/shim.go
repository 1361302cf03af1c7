// Package shim is the agent's second life: a process beside the user's system that speaks for it. It says every second that
// the system is well, hands on what the system says to carte, starts the project's program, takes home what lies in
// /carte/out and what was changed in the images that keep their changes, and ends all that when the server asks.
//
//	shim.go     the life: what waits for what
//	pulse.go    what is said to the server every second, and what it answers
//	project.go  the project's program
//	home.go     results and changed images, on their way home: out.go, pack.go
//	lines.go    what waits for the server, with a bound
//	link.go     the wire
//	offers.go   what carte keeps, and on which systems
//
// The package refuses to know how the system was started and which it is: what differs from one to another is in Options.
// It builds wherever Go knows processes and groups of them.
package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"carte/lab"
)

// Options are what differs from one user's system to another. All may be left out.
type Options struct {
	Root  string       // the folder that the user's system lies in; empty: it is /
	Enter func() error // called before each look into Root, which may have become another by then

	// Up waits until the user's system is up, and returns in a few words how that was seen. nil: it is.
	Up func(context.Context) (string, error)

	// Down is closed when the user's system begins to stop. It waits until Leave is called, which happens once.
	Down  <-chan struct{}
	Leave func()

	// Beside, when set, goes on as long as the shim does, and says things as the shim. Its error is said and ends nothing.
	Beside func(ctx context.Context, say func(format string, args ...any)) error

	Changes func(Back) Entries // what differs from an image, as an OCI layer has it; nil: that is not offered here
	Reboot  func() error       // restarts the machine at once; nil: that is not offered here

	Console  io.Writer     // whole lines for the machine's consoles, where carte may listen too; nil: nobody is there
	Log      *slog.Logger  // what the shim itself says; nil: nowhere
	Interval time.Duration // between two reports, 1 s when 0
	Grace    time.Duration // between asking a program to end and killing it, 10 s when 0
	Bound    time.Duration // how long a system that is called back or stops is held for what is to go home, 60 s when 0
	Deaf     time.Duration // after how long a server that has never answered counts as none, 20 s when 0

	// Plain allows an http:// server. HTTP, when set, is used instead of the client that pins the certificate. Both are
	// for tests.
	Plain bool
	HTTP  *http.Client
}

func (o *Options) fill() {
	for _, d := range []struct {
		of *time.Duration
		is time.Duration
	}{{&o.Interval, time.Second}, {&o.Grace, 10 * time.Second}, {&o.Bound, time.Minute}, {&o.Deaf, 20 * time.Second}} {
		if *d.of <= 0 {
			*d.of = d.is
		}
	}
	if o.Console == nil {
		o.Console = io.Discard
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Enter == nil {
		o.Enter = func() error { return nil }
	}
	if o.Leave == nil {
		o.Leave = func() {}
	}
}

// Why a system's work is over before its program ended.
var (
	errRecalled = errors.New("the boot was called back")
	errDown     = errors.New("the system went down")
	errLocal    = errors.New("the machine is to restart")
)

// life is one shim.
type life struct {
	Options
	Task
	link  *link
	lines *lines
	began time.Time

	over    context.Context         // ends with errRecalled or errDown
	end     context.CancelCauseFunc // of over
	kick    chan struct{}           // a report is due at once
	stopped atomic.Bool             // after errRecalled: nothing is left to do, and the server is to know
	told    atomic.Bool             // it knows
	console sync.Mutex
}

// Run lives beside the user's system until ctx ends or the server ends this shim's right, which is an error that wraps
// lab.ErrDenied. It restarts the machine when the server says so, and returns what came of that. The program that it
// started is stopped before it returns.
func Run(ctx context.Context, t Task, o Options) error {
	o.fill()
	l, err := newLink(t, o)
	if err != nil {
		return err
	}
	defer l.http.CloseIdleConnections()
	if t.Key == "" {
		if t.Orders, err = l.claim(ctx); err != nil {
			return err
		}
	}
	if t.Orders.Boot == 0 {
		return fmt.Errorf("orders %q (%s): a shim serves a boot, and they name none: %w", t.Orders.Do, t.Orders.Why, lab.ErrInvalid)
	}
	s := &life{Options: o, Task: t, link: l, lines: newLines(), began: time.Now(), kick: make(chan struct{}, 1)}
	err = s.both(ctx)
	if errors.Is(err, errLocal) {
		s.tell("%v", err)
		if s.Reboot == nil {
			return fmt.Errorf("a restart of the machine is not offered on this system: %w", lab.ErrInvalid)
		}
		return s.Reboot()
	}
	return err
}

// both speaks to the server and does what is to be done, until one of them is over for good.
func (s *life) both(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	over, end := context.WithCancelCause(ctx)
	defer end(nil)
	s.over, s.end = over, end
	var all sync.WaitGroup
	for _, f := range []func(context.Context) error{s.pulse, s.work, s.watch, s.beside} {
		all.Go(func() {
			if err := f(ctx); err != nil {
				cancel(err)
			}
		})
	}
	all.Wait()
	return context.Cause(ctx)
}

// watch waits for the end of the system.
func (s *life) watch(ctx context.Context) error {
	select {
	case <-s.Down:
		s.end(errDown)
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// beside lives with Beside, where there is such.
func (s *life) beside(ctx context.Context) error {
	if s.Beside == nil {
		return nil
	}
	if err := s.Beside(ctx, s.tell); err != nil && ctx.Err() == nil {
		s.tell("%s", lab.Words(err))
	}
	return nil
}

// work is all that the shim does for its system, in order.
func (s *life) work(ctx context.Context) error {
	s.tell("this is %s; boot %d: %s, beside its system", s.Orders.Machine, s.Orders.Boot, s.Orders.Stack)
	s.offer()
	last, ran := s.program()
	if !ran {
		<-s.over.Done()
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err := s.home(ctx)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if last = s.lastWord(last, ran, err); last != "" {
		s.lines.add(last)
	}
	s.flush(ctx)
	<-s.over.Done()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if context.Cause(s.over) == errRecalled {
		s.stopped.Store(true)
		s.now()
		select {
		case <-s.Down:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	s.Leave()
	<-ctx.Done()
	return context.Cause(ctx)
}

// lastWord is the line that ends the boot, when what could be taken home is there. A boot that was called back ends by that.
func (s *life) lastWord(last string, ran bool, err error) string {
	if err != nil {
		s.tell("%s", lab.Words(err))
	}
	switch cause := context.Cause(s.over); {
	case cause == errRecalled:
		return ""
	case err != nil && s.link.heard.Load():
		return "::carte fail " + lab.Words(err)
	case !ran && cause == errDown:
		return "::carte done the system went down"
	}
	return last
}

// tell says something of the shim's own, to the server and to who stands before the machine.
func (s *life) tell(format string, args ...any) {
	text := short("carte: " + fmt.Sprintf(format, args...))
	s.Log.Info(text)
	s.lines.add(text)
	s.show(text)
}

// show writes a line to the consoles.
func (s *life) show(text string) {
	s.console.Lock()
	defer s.console.Unlock()
	io.WriteString(s.Console, text+"\n") // a console that fails cannot be told about
}

// now makes the next report due.
func (s *life) now() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}
