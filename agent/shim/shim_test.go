package shim

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"carte/lab"
)

// A trial is a shim beside a folder that stands for a system.
type trial struct {
	*server
	task    Task
	options Options
	down    chan struct{}
	left    chan struct{}
	screen  screen
	cancel  context.CancelFunc
	ended   chan error
}

// screen is a console that can be read while it is written.
type screen struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// newTrial makes a system whose project runs that shell script; empty: there is no program.
func newTrial(t *testing.T, script string) *trial {
	x := &trial{server: newServer(t), down: make(chan struct{}), left: make(chan struct{}), ended: make(chan error, 1)}
	root := t.TempDir()
	if err := errors.Join(os.MkdirAll(root+lab.ProjectPlace, 0o755), os.MkdirAll(root+lab.OutPlace, 0o755)); err != nil {
		t.Fatal(err)
	}
	if script != "" {
		script = "#!/bin/sh\nout='" + root + lab.OutPlace + "'\n" + script + "\n"
		syscall.ForkLock.RLock() // a child of another test's that has the file open, if only for a moment, makes it busy
		err := os.WriteFile(root+lab.ProjectPlace+"/run", []byte(script), 0o755)
		syscall.ForkLock.RUnlock()
		if err != nil {
			t.Fatal(err)
		}
	}
	x.task = Task{Server: x.URL, Key: testKey, Orders: lab.Orders{Do: lab.DoRun, Boot: 7, Machine: "rack1", Stack: "hpt", Compose: lab.Compose{
		Given: []lab.Clause{lab.Heartbeat, lab.Autostart, lab.Results}, Params: map[string]string{"huge-pages": "4"}}}}
	x.options = Options{
		Root: root, Plain: true, Console: &x.screen, Interval: 10 * time.Millisecond, Grace: 30 * time.Second, Bound: 30 * time.Second,
		Down: x.down, Leave: func() { close(x.left) },
	}
	return x
}

func (x *trial) start(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); x.ended <- Run(ctx, x.task, x.options) }()
	t.Cleanup(func() { cancel(); <-done })
	x.cancel = cancel
}

func TestARunComesHome(t *testing.T) {
	x := newTrial(t, `
echo "boot $CARTE_BOOT on $CARTE_MACHINE with $CARTE_STACK, $CARTE_PARAM_HUGE_PAGES pages in $(pwd)"
echo "::carte metric latency=12.5 us"
mkdir $out/sub; echo 42 >$out/sub/answer; ln -s sub/answer $out/short; ln -s /etc/passwd $out/bad; mkfifo $out/pipe
echo "no end of line" >&2`)
	x.start(t)
	x.until(func() bool { return x.said("::carte done") })
	for _, words := range []string{"boot 7 on rack1 with hpt, 4 pages in " + x.options.Root + lab.ProjectPlace, "::carte metric latency=12.5 us",
		"::carte done exit 0", "/carte/out/bad, a link to /etc/passwd stays behind", "/carte/out/pipe", "no end of line", "3 files and folders, 3 bytes"} {
		if !x.said(words) {
			t.Errorf("the server did not hear %q; it heard:\n%s", words, strings.Join(x.lines, "\n"))
		}
	}
	if x.at("OUT") < 0 || x.at("OUT") > x.at("::carte done") {
		t.Errorf("the results did not come before the last word: %q", x.order)
	}
	out := x.tars["OUT"]
	if out["sub/answer"].text != "42\n" || out["sub/"].Typeflag != tar.TypeDir || out["short"].Linkname != "sub/answer" || len(out) != 3 {
		t.Errorf("results: %v", out)
	}
	for _, r := range x.reports {
		if r.Boot != 7 || !r.Shim || r.Rung != "" || r.Error != "" {
			t.Errorf("report %+v", r)
		}
	}
}

func TestLastWords(t *testing.T) {
	for _, x := range []struct{ script, want string }{
		{"exit 3", "::carte fail exit 3"},
		{"kill -9 $$", "::carte fail ended by signal 9 (killed)"},
		{"echo ::carte done 12 rounds; sleep 0.1; echo x >$out/late", "::carte done 12 rounds"},
		{"echo ::carte done; exit 1", "::carte fail exit 1"},
		{"echo ::carte fail no memory", "::carte fail no memory"},
		{"echo ::carte done and goes on; trap '' TERM; while :; do sleep 0.1; done", "::carte done and goes on"},
		{"sleep 1000 & echo ::carte metric x=1", "::carte done exit 0"}, // what is left behind holds the pipe, and nobody waits
	} {
		t.Run(x.want, func(t *testing.T) {
			t.Parallel()
			y := newTrial(t, x.script)
			if !strings.Contains(x.script, "late") { // some have to be killed
				y.options.Grace = 300 * time.Millisecond
			}
			os.WriteFile(y.options.Root+lab.OutPlace+"/result", []byte("1"), 0o644)
			y.start(t)
			y.until(func() bool { return y.at("::carte done") >= 0 || y.at("::carte fail") >= 0 })
			if at := y.at(x.want); at < 0 || y.at("OUT") > at || y.at("OUT") < 0 {
				t.Errorf("heard %q, want %q after the results", y.order, x.want)
			}
			if strings.Contains(x.script, "late") && y.tars["OUT"]["late"].text == "" {
				t.Error("what was written after the word and before the end is not home")
			}
		})
	}
}

func TestNoProgram(t *testing.T) {
	x := newTrial(t, "")
	x.start(t)
	x.until(func() bool { return x.said("there is no /carte/project/run") && len(x.reports) > 3 })
	if x.said("::carte done") || x.said("::carte fail") {
		t.Errorf("a boot without a program was ended: %q", x.lines)
	}
	os.WriteFile(x.options.Root+lab.OutPlace+"/by-hand", []byte("1"), 0o644)
	close(x.down)
	<-x.left
	x.until(func() bool { return x.said("::carte done the system went down") })
	if x.tars["OUT"]["by-hand"].text != "1" {
		t.Errorf("results at the shutdown: %v", x.tars)
	}
}

func TestCalledBack(t *testing.T) {
	x := newTrial(t, "echo half >$out/half; trap 'echo asked; echo rest >$out/rest; exit 0' TERM; echo begun; while :; do sleep 0.05; done")
	recall := false
	x.reply = func(r lab.Report) (reply lab.Reply) {
		if recall && !r.Revoked {
			reply.Revoke = "somebody else needs it"
		}
		return reply
	}
	x.start(t)
	x.until(func() bool { recall = x.said("begun"); return recall })
	x.until(func() bool { return len(x.reports) > 0 && x.reports[len(x.reports)-1].Revoked })
	if out := x.tars["OUT"]; out["half"].text != "half\n" || out["rest"].text != "rest\n" {
		t.Errorf("what was there when it was called back: %v", out)
	}
	if x.said("::carte done") || x.said("::carte fail") || !x.said("asked") {
		t.Errorf("heard %q", x.lines)
	}
}

func TestCalledBackWithoutAServerForResults(t *testing.T) {
	x := newTrial(t, "echo begun; echo half >$out/half; sleep 1000")
	x.options.Bound = 300 * time.Millisecond
	x.out = func() error { return io.ErrUnexpectedEOF } // 500: it may pass
	x.reply = func(r lab.Report) (reply lab.Reply) {
		if x.said("begun") && !r.Revoked {
			reply.Revoke = "now"
		}
		return reply
	}
	x.start(t)
	x.until(func() bool { return len(x.reports) > 0 && x.reports[len(x.reports)-1].Revoked })
	x.until(func() bool { return x.said("stay in /carte/out") })
}

func TestRestart(t *testing.T) {
	x := newTrial(t, "sleep 1000")
	x.reply = func(lab.Report) lab.Reply {
		if x.said("starts") {
			return lab.Reply{Orders: &lab.Orders{Do: lab.DoLocal, Why: "boot 8 is next"}}
		}
		return lab.Reply{}
	}
	restarted := errors.New("restarted")
	x.options.Reboot = func() error { return restarted }
	x.start(t)
	if err := <-x.ended; err != restarted {
		t.Errorf("Run = %v, want %v", err, restarted)
	}
}

func TestDenied(t *testing.T) {
	x := newTrial(t, "echo begun; sleep 1000")
	x.start(t)
	x.until(func() bool { return x.said("begun") })
	x.mu.Lock()
	x.key = "another"
	x.mu.Unlock()
	if err := <-x.ended; !errors.Is(err, lab.ErrDenied) {
		t.Errorf("Run = %v, want denied", err)
	}
}

func TestClaim(t *testing.T) {
	x := newTrial(t, "")
	x.orders, x.key = x.task.Orders, "nobody's"
	x.task.Key, x.task.Token, x.task.Orders = "", "good", lab.Orders{}
	x.start(t)
	x.until(func() bool { return len(x.reports) > 0 && x.reports[0].Boot == 7 })
}

// A server that is away in the middle of everything: all that was promised arrives when it is back.
func TestServerAway(t *testing.T) {
	x := newTrial(t, `
while [ ! -e $out/../go ]; do sleep 0.02; done
i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done
echo "::carte metric a=1"; echo 1 >$out/result`)
	x.options.Deaf = time.Nanosecond
	x.start(t)
	x.until(func() bool { return x.said("starts") })
	x.mu.Lock()
	x.away = true
	x.mu.Unlock()
	dir := filepath.Dir(x.options.Root + lab.OutPlace)
	if err := os.WriteFile(dir+"/go", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	tries := 0
	x.until(func() bool {
		if strings.Contains(x.screen.String(), "run: exit 0") {
			tries++
		}
		return tries > 20
	})
	x.mu.Lock()
	x.away = false
	x.mu.Unlock()
	x.until(func() bool { return x.said("::carte done exit 0") })
	if !x.said("::carte metric a=1") || !x.said("line 2999") || !x.said("lines were dropped") || x.said("line 999") {
		t.Errorf("%d lines, the first %q", len(x.lines), x.lines[:5])
	}
	if x.at("OUT") < 0 || x.at("OUT") > x.at("::carte done") {
		t.Error("the results did not come before the last word")
	}
	if strings.Contains(x.screen.String(), "\n::carte") {
		t.Errorf("a server that was heard is also told over the console:\n%s", x.screen.String())
	}
}

// Where there is no server at all, the console says what is for carte.
func TestNoServer(t *testing.T) {
	x := newTrial(t, "echo ::carte metric a=1; echo not for carte; echo 1 >$out/result")
	x.away = true
	x.options.Deaf, x.options.Bound = time.Nanosecond, 200*time.Millisecond
	x.server.Server.Close() // nobody listens
	x.start(t)
	for !strings.Contains(x.screen.String(), "::carte done exit 0\n") {
		select {
		case err := <-x.ended:
			t.Fatal(err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	text := x.screen.String()
	if !strings.Contains(text, "\n::carte metric a=1\n") || strings.Contains(text, "\nnot for carte") || !strings.Contains(text, "stay in /carte/out") {
		t.Errorf("the console shows\n%s", text)
	}
}

func TestBack(t *testing.T) {
	changed := map[string]string{"me": "x", "same": "y", "system": "z", "still": ""}
	x := newTrial(t, "true")
	for name := range changed {
		x.task.Backs = append(x.task.Backs, Back{Image: name})
	}
	x.options.Changes = func(b Back) Entries {
		return func(yield func(Entry, error) bool) {
			if text := changed[b.Image]; text != "" {
				yield(Entry{&tar.Header{Name: "f", Typeflag: tar.TypeReg, Size: 3}, func() (io.ReadCloser, error) {
					return io.NopCloser(strings.NewReader(text)), nil // shorter than it was a moment ago
				}}, nil)
			}
		}
	}
	asked := 0
	x.back = func() (lab.Kept, error) {
		switch asked++; asked {
		case 1:
			return lab.Kept{}, errors.New("the disk is full just now")
		case 2:
			return lab.Kept{}, fmt.Errorf("clause %q of system images: nobody asked: %w", lab.ClauseUpdates, lab.ErrRefused)
		}
		return lab.Kept{Ref: lab.Ref{Name: "image", Version: 5}, Same: asked == 3}, nil
	}
	x.start(t)
	x.until(func() bool { return x.said("::carte done") })
	for _, words := range []string{"still: nothing was changed in it, nothing is sent", "is not kept: clause \"updates by itself\" of system images: nobody asked",
		"is image@5 already", "is kept as image@5"} {
		if !x.said(words) {
			t.Errorf("the server did not hear %q; it heard\n%s", words, strings.Join(x.lines, "\n"))
		}
	}
	if x.at("BACK still") >= 0 || asked != 4 {
		t.Errorf("%d tries: %q", asked, x.order)
	}
}

// Results that are refused make a run fail that was good, and say why.
func TestResultsRefused(t *testing.T) {
	x := newTrial(t, "echo 1 >$out/result")
	x.out = func() error { return fmt.Errorf("boot 7 left too many files: %w", lab.ErrRefused) }
	x.start(t)
	x.until(func() bool {
		return x.said("::carte fail results were not taken home and stay in /carte/out: boot 7 left too many files")
	})
}
