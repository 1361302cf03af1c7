// Package tui is carte's screen: what a person sees of a lab and the keys by which they steer it. It keeps a cursor, a
// scroll position and a filter for each place, never a copy of the lab: what it draws is the newest snapshot and a window
// of the log, both handed over by one waker at most ten times a second. What can be done comes from the table in
// tui/action. The package refuses to know where the lab runs, what a verb does, and the color of the terminal's
// background, which it never asks for.
//
//	tui.go      Run: the program, its writer, its end
//	feed.go     the goroutines that watch the lab and wake the screen
//	model.go    what the screen remembers; Update and View
//	press.go    from a key to an action, from an action to a verb
//	keys.go     keys as the terminal sends them, taken apart
//	frame.go    the lines around every screen
//	machines.go queue.go images.go stacks.go boot.go log.go needs.go    one screen each
//	over.go help.go command.go    what is drawn over them
//	state.go ladder.go alerts.go  what a snapshot means, as pure functions
package tui

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	_ "carte/tui/quiet" // before bubbletea, see there

	tea "github.com/charmbracelet/bubbletea"
	"github.com/charmbracelet/x/term"

	"carte/lab"
)

// Options is what a screen is opened with. The zero value of each field has a meaning.
type Options struct {
	In, Out *os.File // the terminal; nil: standard input and output
	Name    string   // the lab's name, for the first line
	Start   string   // the address to open at, such as machines/nuc-2/log; empty: machines
	ASCII   bool     // nothing but ASCII, whatever the environment says
	Mono    bool     // no colour, whatever the environment says

	// Now is the wall clock; nil: time.Now.
	Now func() time.Time
	// Env reads the environment; nil: os.Getenv.
	Env func(string) string
	// Command carries out a shell command without its first word, carte, and returns what it wrote; nil: only what the
	// table of actions knows can be typed after ':'.
	Command func(ctx context.Context, line string) (string, error)
	// Program returns the command line, with its program, of a carte command that takes over the terminal, such as console
	// vm-1; nil: there is none.
	Program func(args ...string) ([]string, error)
	// Leave says in words what would stop when the screen is left, so that it is asked; nil or empty: nothing.
	Leave func(lab.Snapshot) string
}

// defaults fills in what was left out, and reads from the environment what the terminal can show. The terminal itself is
// never asked: some do not answer.
func (o *Options) defaults() {
	if o.In == nil {
		o.In = os.Stdin
	}
	if o.Out == nil {
		o.Out = os.Stdout
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Env == nil {
		o.Env = os.Getenv
	}
	kind := o.Env("TERM")
	o.Mono = o.Mono || o.Env("NO_COLOR") != "" || kind == "dumb"
	o.ASCII = o.ASCII || o.Env("CARTE_ASCII") == "1" || kind == "linux" || kind == "dumb" || otherLocale(o.Env)
}

// otherLocale says that the locale is set, and is not one of UTF-8 (POSIX 8.2: the first of these that is not empty).
func otherLocale(env func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := strings.ToLower(env(name)); v != "" {
			return !strings.Contains(v, "utf-8") && !strings.Contains(v, "utf8")
		}
	}
	return false
}

// Run shows the lab until the person leaves, and then returns nil; when ctx ends first it returns the context's error.
// Either way the terminal is as it was, and all goroutines that Run started have ended.
func Run(ctx context.Context, desk lab.Desk, o Options) (err error) {
	o.defaults()
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	out := &terminal{File: o.Out}
	f := newFeed(desk, o.Now)
	m := newModel(inner, desk, f, out, o)
	p := tea.NewProgram(m, tea.WithInput(o.In), tea.WithOutput(out), tea.WithAltScreen(), tea.WithoutSignalHandler())

	var g group
	g.crashed = func() { p.Kill() }
	m.group = &g
	// Nothing begins or ends before the window's size is known: Bubble Tea asks for it in a goroutine that it does not
	// join, and that goroutine still reads the terminal's file until then.
	ready := make(chan struct{})
	m.ready = sync.OnceFunc(func() { close(ready) })
	if !term.IsTerminal(o.Out.Fd()) {
		m.ready()
	}
	g.start(func() { <-ready; f.watch(inner) })
	g.start(func() { <-ready; f.tail(inner) })
	g.start(func() { <-ready; f.listen(inner) })
	g.start(func() { <-ready; f.wake(inner, func(msg wakeMsg) { p.Send(msg) }) })
	g.start(func() { // a quiet end: unlike tea.WithContext, this waits for the reader of keys
		<-inner.Done()
		<-ready
		p.Quit()
	})
	_, err = p.Run()
	m.ready()
	cancel()
	if crash := g.wait(); crash != nil {
		return crash
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("the screen: %w", err)
	}
	return nil
}

// A group is goroutines that end together. A panic in one of them ends the program, so that the terminal is put back
// before anybody reads about it.
type group struct {
	wg      sync.WaitGroup
	crashed func()
	mu      sync.Mutex
	crash   error
}

func (g *group) start(f func()) {
	g.wg.Add(1)
	go func() {
		defer g.wg.Done()
		g.run(f)
	}()
}

// run calls f, and turns a panic in it into the group's error.
func (g *group) run(f func()) {
	defer func() {
		if r := recover(); r != nil {
			g.mu.Lock()
			g.crash = fmt.Errorf("BUG in the screen: %v\n%s", r, debug.Stack())
			g.mu.Unlock()
			g.crashed()
		}
	}()
	f()
}

func (g *group) wait() error {
	g.wg.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.crash
}

// A terminal writes each picture as one synchronized update, so that no half of one is ever shown. Terminals that do not
// know mode 2026 ignore it.
type terminal struct {
	*os.File
	mu sync.Mutex
}

// picture is how many bytes a write has that is worth being synchronized.
const picture = 64

func (t *terminal) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(b) < picture {
		return t.File.Write(b)
	}
	o := make([]byte, 0, len(b)+16)
	o = append(o, "\x1b[?2026h"...)
	o = append(o, b...)
	o = append(o, "\x1b[?2026l"...)
	if n, err := t.File.Write(o); err != nil {
		return min(n, len(b)), err
	}
	return len(b), nil
}

// WriteString keeps io.WriteString from going around Write.
func (t *terminal) WriteString(s string) (int, error) { return t.Write([]byte(s)) }
