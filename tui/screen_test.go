package tui

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	xterm "github.com/charmbracelet/x/term"
	"github.com/creack/pty"
	"github.com/hinshun/vt10x"

	"carte/lab"
)

// patience is how long a test waits for the screen to show something. It waits for the thing, not for the time.
const patience = 20 * time.Second

// A glass is a terminal that really understands what is written to it.
type glass struct {
	t     testing.TB
	deaf  bool // read and forget
	ptmx  *os.File
	tty   *os.File
	vt    vt10x.Terminal
	mu    sync.Mutex
	raw   bytes.Buffer
	wrote chan struct{}
	done  chan struct{}
}

func newGlass(t testing.TB, w, h int) *glass {
	t.Helper()
	ptmx, tty, err := pty.Open()
	if err != nil {
		t.Skipf("no pseudo terminal here: %v", err)
	}
	if err := pty.Setsize(ptmx, &pty.Winsize{Rows: uint16(h), Cols: uint16(w)}); err != nil {
		t.Fatal(err)
	}
	g := &glass{t: t, ptmx: ptmx, tty: tty, vt: vt10x.New(vt10x.WithSize(w, h)), wrote: make(chan struct{}, 1), done: make(chan struct{})}
	go func() {
		defer close(g.done)
		buf := make([]byte, 1<<16)
		for {
			n, err := ptmx.Read(buf)
			if err != nil {
				return
			}
			g.mu.Lock()
			if g.deaf {
				n = 0
			}
			g.raw.Write(buf[:n])
			g.vt.Write(buf[:n])
			g.mu.Unlock()
			select {
			case g.wrote <- struct{}{}:
			default:
			}
		}
	}()
	t.Cleanup(func() {
		tty.Close()
		ptmx.Close()
		<-g.done
	})
	return g
}

func (g *glass) String() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.vt.String()
}

// until waits for the screen to be as wanted.
func (g *glass) until(what string, is func(screen string) bool) {
	g.t.Helper()
	late := time.NewTimer(patience)
	defer late.Stop()
	for !is(g.String()) {
		select {
		case <-g.wrote:
		case <-late.C:
			g.t.Fatalf("the screen never showed %s:\n%s", what, g.String())
		}
	}
}

func (g *glass) shows(text string) {
	g.t.Helper()
	g.until(fmt.Sprintf("%q", text), func(s string) bool { return strings.Contains(s, text) })
}

func (g *glass) types(keys string) {
	g.t.Helper()
	if _, err := g.ptmx.WriteString(keys); err != nil {
		g.t.Fatal(err)
	}
}

// A talker is a desk with one snapshot and a log, on which nothing changes.
type talker struct {
	still
	snap  lab.Snapshot
	lines []lab.Line
}

func (d *talker) Watch(ctx context.Context, after uint64) (lab.Snapshot, error) {
	if after < d.snap.Rev {
		return d.snap, nil
	}
	return d.still.Watch(ctx, after)
}

func (d *talker) Tail(ctx context.Context, t lab.Tail) (lines []lab.Line, next, lost int64, err error) {
	for _, l := range d.lines {
		if l.Seq > t.After && (t.Machine == 0 || l.Machine == t.Machine) {
			lines = append(lines, l)
		}
	}
	if len(lines) == 0 {
		return d.still.Tail(ctx, t)
	}
	return lines, d.lines[len(d.lines)-1].Seq, 0, nil
}

func options(g *glass) Options {
	return Options{In: g.tty, Out: g.tty, Name: "bench0", Now: func() time.Time { return noon }, Env: func(string) string { return "" }}
}

// A whole visit on a true terminal: move, open a boot, back, help, leave. Keys that arrive together, an Escape with a
// key behind it and the terminal's late answer are taken apart.
func TestVisit(t *testing.T) {
	g := newGlass(t, 80, 24)
	was, err := xterm.GetState(g.tty.Fd())
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- Run(context.Background(), &talker{snap: bench(), lines: talk()}, options(g)) }()
	g.shows("> opti-7")
	g.shows("demo login:")
	g.types("jjjj")
	g.shows("> nuc-2")
	g.types("\r")
	g.shows("Machines > nuc-2")
	g.shows("✓probe ✓hash")
	g.shows("power on (WoL) sent")
	g.types("\x1b]11;rgb:1e1e/1e1e/1e1e\x1b\\") // the terminal says what nobody asked
	g.types("\x1bk")                            // back, and one up, in one read
	g.shows("> …5e:2f:a1")
	g.types("?")
	g.shows("Help: machines")
	g.types("\x1b")
	g.until("the list again", func(s string) bool { return !strings.Contains(s, "Help") })
	if err := pty.Setsize(g.ptmx, &pty.Winsize{Rows: 12, Cols: 40}); err != nil {
		t.Fatal(err)
	}
	g.mu.Lock()
	g.vt.Resize(40, 12)
	g.mu.Unlock()
	if err := syscall.Kill(os.Getpid(), syscall.SIGWINCH); err != nil { // it is not this process's own terminal
		t.Fatal(err)
	}
	g.shows("! what to do")
	g.types("q")
	if err := <-ended; err != nil {
		t.Fatalf("Run: %v", err)
	}
	now, err := xterm.GetState(g.tty.Fd())
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(*now) != fmt.Sprint(*was) {
		t.Error("the terminal is still raw")
	}
	g.until("the usual screen with its cursor", func(string) bool {
		return g.vt.Mode()&vt10x.ModeAltScreen == 0 && g.vt.CursorVisible()
	})
	g.mu.Lock()
	defer g.mu.Unlock()
	if raw := g.raw.String(); strings.Contains(raw, "\x1b]11;?") || strings.Contains(raw, "\x1b[6n") || strings.Contains(raw, "\x1b[c") {
		t.Error("the screen asked the terminal something")
	}
	if !strings.Contains(g.raw.String(), "\x1b[?2026h") {
		t.Error("pictures are not synchronized")
	}
}

// Every way to end leaves no goroutine behind.
func TestRunEndsWhole(t *testing.T) {
	visit := func(t *testing.T, end func(g *glass, cancel func()), want error) {
		g := newGlass(t, 80, 24)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		ended := make(chan error, 1)
		go func() { ended <- Run(ctx, &talker{snap: bench(), lines: talk()}, options(g)) }()
		g.shows("opti-7")
		end(g, cancel)
		if err := <-ended; !errors.Is(err, want) {
			t.Errorf("Run = %v, want %v", err, want)
		}
		g.until("the usual screen", func(string) bool { return g.vt.Mode()&vt10x.ModeAltScreen == 0 })
	}
	quit := func(g *glass, _ func()) { g.types("q") }
	t.Run("first", func(t *testing.T) { visit(t, quit, nil) }) // starts the runtime's own goroutine for signals
	base := runtime.NumGoroutine()
	t.Run("q", func(t *testing.T) { visit(t, quit, nil) })
	t.Run("ctrl+c twice", func(t *testing.T) { visit(t, func(g *glass, _ func()) { g.types("\x03\x03") }, nil) })
	t.Run("cancelled", func(t *testing.T) { visit(t, func(_ *glass, cancel func()) { cancel() }, context.Canceled) })
	for range 1000 {
		if runtime.NumGoroutine() <= base {
			return
		}
		runtime.Gosched()
	}
	var stacks bytes.Buffer
	buf := make([]byte, 1<<20)
	stacks.Write(buf[:runtime.Stack(buf, true)])
	t.Errorf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), base, stacks.String())
}

// A BUG in one of our goroutines puts the terminal back before anybody reads about it.
func TestCrashRestoresTheTerminal(t *testing.T) {
	g := newGlass(t, 80, 24)
	err := Run(context.Background(), &crasher{}, options(g))
	if err == nil || !strings.Contains(err.Error(), "BUG") || !strings.Contains(err.Error(), "out of paper") {
		t.Errorf("Run = %v, want the panic's words", err)
	}
	g.until("the usual screen", func(string) bool { return g.vt.Mode()&vt10x.ModeAltScreen == 0 })
}

type crasher struct{ still }

func (crasher) Watch(context.Context, uint64) (lab.Snapshot, error) { panic("out of paper") }

// A lab that cannot be reached leaves the last picture as of its last word, says so first of all, and goes on saying it
// until the lab answers. No machine is blamed.
func TestLabGoneAndBack(t *testing.T) {
	for _, w := range []int{40, 60, 80, 120} {
		m, _ := newTest(t, bench(), w, 24, Options{Name: "a lab with a very long name indeed"})
		rows := fmt.Sprint(m.rows())
		m.Update(wakeMsg{at: noon.Add(17 * time.Second), gone: lab.ErrUnreachable, tries: 2})
		m.Update(wakeMsg{at: noon.Add(27 * time.Second)}) // the clock goes on, the lab said nothing
		lines := m.linesOf()
		if !strings.HasPrefix(strings.TrimSpace(lines[0]), "▲ no word from the lab for 27s …") || strings.Contains(lines[0], "http") {
			t.Errorf("the first of %d columns: %q", w, lines[0])
		}
		if v := strings.Join(lines, "\n"); !strings.Contains(v, "nuc-2") || !strings.HasPrefix(m.lastLine(), "q leaves  ") {
			t.Errorf("the picture does not say that the lab is gone:\n%s", v)
		}
		m.Update(wakeMsg{at: noon.Add(29 * time.Second), gone: fmt.Errorf("no lab runs in %s; carte serve starts one: %w", strings.Repeat("/dir", 20), lab.ErrUnreachable), tries: 249})
		if !strings.HasPrefix(m.lastLine(), "carte serve starts one  q leaves  no ") {
			t.Errorf("%d columns do not begin with what to do: %q", w, m.lastLine())
		}
		m.press(press{name: "b"})
		if want := "▲ the lab is gone, nothing was done; carte serve starts one"; m.over != nil || w > 60 && m.lastLine() != want {
			t.Errorf("b in a lab that is gone: %q", m.linesOf()[21:])
		}
		m.Update(wakeMsg{at: noon.Add(40 * time.Second)})
		if !strings.HasPrefix(m.lastLine(), "carte serve starts one") {
			t.Errorf("later the last line is %q", m.lastLine())
		}
		if got := fmt.Sprint(m.rows()); got != rows {
			t.Errorf("the machines changed while nobody knew anything:\n%s\nbefore:\n%s", got, rows)
		}
		fitsIn(t, m.View(), w, 24)
		m.Update(wakeMsg{at: noon.Add(41 * time.Second), heard: true})
		if v := strings.Join(m.linesOf(), "\n"); strings.Contains(v, "no word from the lab") {
			t.Errorf("the lab is back and the picture does not know:\n%s", v)
		}
	}
}

// A killed is a desk whose lab hangs once it was seen: nothing answers, nothing fails.
type killed struct{ talker }

func (d *killed) Tail(ctx context.Context, _ lab.Tail) ([]lab.Line, int64, int64, error) {
	<-ctx.Done()
	return nil, 0, 0, ctx.Err()
}

// A lab that hangs is noticed although no call fails.
func TestLabHangs(t *testing.T) {
	g := newGlass(t, 80, 24)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, &killed{talker{snap: bench()}}, options(g)) }()
	g.shows("opti-7")
	began := time.Now()
	g.shows("no word from the lab for")
	if took := time.Since(began); took > 2*(pulse+quiet) {
		t.Errorf("noticed after %s", took)
	}
	cancel()
	<-ended
}

// Importing this package says nothing to the terminal and waits for nothing: the test binary, which has it, runs in a
// terminal that never answers.
func TestQuiet(t *testing.T) {
	if os.Getenv("CARTE_MUTE") != "" {
		return
	}
	ptmx, tty, err := pty.Open()
	if err != nil {
		t.Skipf("no pseudo terminal here: %v", err)
	}
	defer ptmx.Close()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "CARTE_MUTE=1", "TERM=xterm-256color", "COLORTERM=truecolor")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	began := time.Now()
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	tty.Close()
	took := time.Since(began)
	out := make([]byte, 4096)
	n, _ := ptmx.Read(out)
	if bytes.ContainsRune(out[:n], '\x1b') {
		t.Errorf("escape bytes were written: %q", out[:n])
	}
	if took > 4*time.Second {
		t.Errorf("starting took %s: somebody waited for the terminal's answer", took)
	}
}
