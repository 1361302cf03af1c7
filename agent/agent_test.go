package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"carte/agent/wire"
	"carte/lab"
)

// small has a machine with a small image on a blank disk.
func small(t *testing.T, s *server) *machine {
	image := noise(1, 3*c)
	return newMachine(t, s, make([]byte, len(image)), s.add(image), len(image))
}

func TestRunWaitsThenBoots(t *testing.T) {
	s := newServer(t, nil)
	m := small(t, s)
	boot := s.orders
	s.orders = lab.Orders{Do: lab.DoWait, Machine: "m"}
	n := 0
	s.reply = func(r lab.Report) lab.Reply {
		if r.Boot == 0 {
			if n++; n == 3 {
				return lab.Reply{Orders: &boot}
			}
		}
		return lab.Reply{}
	}
	if err := m.run(); err != nil || n != 3 || len(m.started) != 1 || m.started[0].Boot != 7 {
		t.Errorf("error %v after %d reports, started %+v", err, n, m.started)
	}
}

func TestRunLocal(t *testing.T) {
	s := newServer(t, nil)
	m := small(t, s)
	s.orders = lab.Orders{Do: lab.DoLocal, Machine: "m"}
	if err := m.run(); err != nil || len(m.started) != 1 || m.started[0].Do != lab.DoLocal {
		t.Errorf("error %v, started %+v", err, m.started)
	}
}

// A stopped agent says why, touches nothing, and ends when its right does.
func TestRunStop(t *testing.T) {
	s := newServer(t, nil)
	m := small(t, s)
	s.orders = lab.Orders{Do: lab.DoStop, Why: "disk too small", Machine: "m"}
	n := 0
	s.reply = func(lab.Report) lab.Reply {
		if n++; n == 2 {
			s.key = "void"
		}
		return lab.Reply{}
	}
	if err := m.run(); !errors.Is(err, lab.ErrDenied) || !strings.Contains(err.Error(), "disk too small") || len(m.started) > 0 {
		t.Errorf("error %v, started %+v", err, m.started)
	}
}

func TestRunUnknownOrders(t *testing.T) {
	s := newServer(t, nil)
	m := small(t, s)
	s.orders.Do = "dance"
	if err := m.run(); !errors.Is(err, lab.ErrInvalid) || !strings.Contains(err.Error(), "dance") {
		t.Errorf("error %v", err)
	}
}

func TestRunDenied(t *testing.T) {
	s := newServer(t, nil)
	m := small(t, s)
	o := m.options()
	o.Token = "1.1.stolen"
	if err := Run(t.Context(), o); !errors.Is(err, lab.ErrDenied) {
		t.Errorf("error %v, want that it is denied", err)
	}
	if err := m.run(); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), m.options()); !errors.Is(err, lab.ErrDenied) {
		t.Errorf("the token worked twice: %v", err)
	}
}

// Nothing is told to a server with another certificate, not even the token.
func TestRunPin(t *testing.T) {
	s := newServer(t, nil)
	m := small(t, s)
	o := m.options()
	o.Pin = strings.Repeat("ab", 32)
	said := &lines{wait: "another certificate", found: make(chan bool)}
	o.Console = said
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- Run(ctx, o) }()
	<-said.found
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if s.key != "" {
		t.Error("it claimed")
	}
	for _, o := range []Options{
		{Server: "http://127.0.0.1:1", Pin: o.Pin}, {Server: "", Pin: o.Pin}, {Server: s.URL, Pin: "ab"}, {Server: s.URL}, {Server: "ftp://x", Plain: true},
	} {
		if err := Run(t.Context(), o); !errors.Is(err, lab.ErrInvalid) {
			t.Errorf("Run(%+v) = %v, want that it is not valid", o, err)
		}
	}
}

// lines is a console that closes found when a line with wait came.
type lines struct {
	mu    sync.Mutex
	all   bytes.Buffer
	wait  string
	found chan bool
	once  sync.Once
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all.Write(b)
	if strings.Contains(string(b), l.wait) {
		l.once.Do(func() { close(l.found) })
	}
	return len(b), nil
}

// The server may be away before the claim and at any report, and in trouble when it is back.
func TestRunServerAway(t *testing.T) {
	var mu sync.Mutex
	n := 0
	s := newServer(t, nil)
	inner := s.Config.Handler
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		n++
		turn := n
		mu.Unlock()
		switch {
		case turn%5 == 1:
			w.WriteHeader(http.StatusServiceUnavailable)
		case turn%5 == 2:
			panic(http.ErrAbortHandler)
		case turn%5 == 3:
			w.Write([]byte(`{"do":`))
		default:
			inner.ServeHTTP(w, r)
		}
	})
	m := small(t, s)
	if err := m.run(); err != nil || len(m.started) != 1 {
		t.Errorf("error %v, started %+v", err, m.started)
	}
}

// A server that is not there is waited for; the agent says so once and goes on when it comes.
func TestRunServerComesLater(t *testing.T) {
	s := newServer(t, nil)
	m := small(t, s)
	o := m.options()
	said := &lines{wait: "connection refused", found: make(chan bool)}
	o.Console = said
	var d net.Dialer
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody.Close()
	config, err := wire.Pinned(o.Pin)
	if err != nil {
		t.Fatal(err)
	}
	o.HTTP = &http.Client{Transport: &http.Transport{TLSClientConfig: config, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		select {
		case <-said.found:
			return d.DialContext(ctx, network, addr)
		default:
			return d.DialContext(ctx, network, nobody.Addr().String())
		}
	}}}
	if err := Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(said.all.String(), "refused"); got != 1 {
		t.Errorf("said %d times that the server is away:\n%s", got, said.all.String())
	}
	if !strings.Contains(said.all.String(), "is back") {
		t.Error("did not say that it is back")
	}
}

// A bug is an attempt that failed: it is reported, with where, and ends nothing but the attempt.
func TestRunPanic(t *testing.T) {
	s := newServer(t, nil)
	m := small(t, s)
	o := m.options()
	o.OpenDisk = func(lab.DiskID) (Disk, error) { panic("a bug for the test") }
	var end *Ended
	if err := Run(t.Context(), o); !errors.As(err, &end) || !end.Again {
		t.Fatalf("error %v", err)
	}
	r, _ := s.last(func(r lab.Report) bool { return r.Error != "" })
	if !strings.Contains(r.Error, "a bug for the test") || r.Fatal || !strings.Contains(strings.Join(r.Lines, "\n"), "agent_test.go") {
		t.Errorf("reported %+v", r)
	}
}

func TestRunPrepareFails(t *testing.T) {
	s := newServer(t, nil)
	m := small(t, s)
	o := m.options()
	o.Prepare = func(context.Context, Ready) (func() error, error) {
		return nil, fmt.Errorf("no init: %w", lab.ErrInvalid)
	}
	var end *Ended
	if err := Run(t.Context(), o); !errors.As(err, &end) || end.Again || len(m.started) > 0 {
		t.Errorf("error %v, started %+v", err, m.started)
	}
	if r, ok := s.last(func(r lab.Report) bool { return r.Error != "" }); !ok || !r.Fatal {
		t.Errorf("reported %+v", r)
	}
}

// The end of the context is an error at every moment, and the agent is gone when Run returns.
func TestRunCancelled(t *testing.T) {
	for _, at := range []lab.Rung{lab.RungProbe, lab.RungHash, lab.RungFetch, lab.RungWrite, lab.RungVerify} {
		t.Run(string(at), func(t *testing.T) {
			s := newServer(t, nil)
			m := small(t, s)
			ctx, cancel := context.WithCancel(t.Context())
			s.reply = func(r lab.Report) lab.Reply {
				if r.Rung == at {
					cancel()
				}
				return lab.Reply{}
			}
			if err := Run(ctx, m.options()); !errors.Is(err, context.Canceled) || len(m.started) > 0 {
				t.Errorf("error %v, started %+v", err, m.started)
			}
		})
	}
}

// A report carries each line once, however often it is sent.
func TestVoice(t *testing.T) {
	var console bytes.Buffer
	v := &voice{console: &console, log: discard}
	v.say("a\nb %d", 1)
	got, mark := v.unsaid()
	v.say("%s", strings.Repeat("x", 2*maxLineLen))
	v.said(mark)
	v.said(mark)
	if strings.Join(got, " ") != "a b 1" || len(v.waiting) != 1 || len(v.waiting[0]) != maxLineLen {
		t.Errorf("got %q, left %d lines", got, len(v.waiting))
	}
	for range 2 * maxLines {
		v.say("z")
	}
	if len(v.waiting) != maxLines {
		t.Errorf("%d lines wait, want %d", len(v.waiting), maxLines)
	}
	if !strings.HasPrefix(console.String(), "carte: a\ncarte: b 1\n") {
		t.Errorf("console %.40q", console.String())
	}
}

func TestGroup(t *testing.T) {
	until := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	fail := func(context.Context) error { return errDisk }
	done := func(context.Context) error { return errDone }
	crash := func(context.Context) error { panic("x") }
	if err := (group{until, fail, until}).Run(t.Context()); err != errDisk {
		t.Errorf("error %v, want the first", err)
	}
	if err := (group{until, done}).Run(t.Context()); err != nil {
		t.Errorf("error %v, want none", err)
	}
	if err := (group{until, crash}).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "x") {
		t.Errorf("error %v, want the panic", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := (group{until}).Run(ctx); err != context.DeadlineExceeded {
		t.Errorf("error %v", err)
	}
	if err := (group{}).Run(t.Context()); err != nil {
		t.Errorf("error %v", err)
	}
}

// What draws screens asks the terminal questions when it is linked, which costs 5 s on a serial line; what keeps
// databases is five times the agent's size.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "./init", "./demo").CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	for path := range strings.FieldsSeq(string(out)) {
		for _, no := range []string{"bubbletea", "bubbles", "lipgloss", "termenv", "sqlite", "carte/store", "carte/netboot", "carte/tui"} {
			if strings.Contains(path, no) {
				t.Errorf("the agent links %s", path)
			}
		}
	}
}
