package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"carte/lab"
	"carte/lab/remote"
)

// serve lets the bench's lab answer on its socket until the test ends.
func (b *bench) serve() {
	b.t.Helper()
	s := &remote.Server{Desk: b.desk, Dir: b.dir, Version: "v2", Log: slog.New(slog.DiscardHandler)}
	if err := s.Listen(); err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	b.t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			b.t.Errorf("the socket ended with %v", err)
		}
	})
}

// when calls do once the lab is as said.
func (b *bench) when(what string, is func(lab.Snapshot) bool, do func()) (wait func()) {
	var wg sync.WaitGroup
	wg.Go(func() {
		for rev := uint64(0); ; {
			s, err := b.desk.Watch(b.t.Context(), rev)
			if err != nil {
				b.t.Errorf("%s: %v", what, err)
				return
			}
			if rev = s.Rev; is(s) {
				do()
				return
			}
		}
	})
	return wg.Wait
}

func ordered(s lab.Snapshot) bool { return s.Live[1].Order != "" }

func TestBootAndWait(t *testing.T) {
	b := newBench(t)
	b.in = "bytes"
	b.ok("machine add vm-1 --virtual --disk 256M")
	b.ok("image import - --name demo --form tree")
	b.ok("stack new demo --system demo")
	b.serve()
	wait := b.when("boot", ordered, func() { b.finish("vm-1") })
	var doc bootDoc
	if err := json.Unmarshal([]byte(b.ok("boot demo --on vm-1 --wait done --timeout 1m --json")), &doc); err != nil {
		t.Fatal(err)
	}
	wait()
	if doc.State != lab.Done || doc.Metrics["speed"].Value != 1.5 || doc.Rungs[0].Name != lab.RungPower || doc.Written != 30 {
		t.Errorf("the boot: %+v", doc)
	}
	for _, line := range []string{"wait boot 1 done", "wait boot vm-1 hello", "wait boot 1 running", "wait machine vm-1 on", "wait machine vm-1 adopted --timeout 1s", "boot show 1 --wait run"} {
		b.ok(line)
	}
	if _, errs, code := b.run("wait", "boot", "1", "failed"); code != 1 || !strings.Contains(errs, "boot 1 is done; it does not become failed") || strings.Contains(errs, "retry") {
		t.Errorf("waiting for a failure of a boot that is done: exit %d %s", code, errs)
	}
	if _, errs, code := b.run("wait", "machine", "vm-1", "off", "--timeout", "10ms"); code != 6 || !strings.Contains(errs, "vm-1 was not off within 10ms; it is on") {
		t.Errorf("timeout: exit %d %s", code, errs)
	}
	b.ok("boot demo --on vm-1")
	if _, errs, code := b.run("wait", "boot", "2", "run", "--timeout", "10ms"); code != 6 || !strings.Contains(errs, "boot 2 did not come to run within 10ms; it is starting") {
		t.Errorf("timeout: exit %d %s", code, errs)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var errs bytes.Buffer
	term := b.term
	term.Out, term.Err = io.Discard, &errs
	if code := Run(ctx, Host{}, term, []string{"wait", "boot", "2", "run", "--state", b.dir}); code != 130 {
		t.Errorf("interrupted: exit %d %s", code, &errs)
	}
}

// Ctrl-C ends the waiting and not the boot, and is not told by the signal's name.
func TestInterruptedWaitSaysWhatGoesOn(t *testing.T) {
	b := newBench(t)
	b.furnish()
	b.serve()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer time.AfterFunc(200*time.Millisecond, func() { cancel(errors.New("interrupt signal received")) }).Stop()
	var errs bytes.Buffer
	term := b.term
	term.Out, term.Err = io.Discard, &errs
	code := Run(ctx, Host{}, term, []string{"boot", "show", "2", "--wait", "done", "--state", b.dir})
	if code != 130 || errs.String() != "carte: interrupted; boot 2 goes on; carte boot stop 2 stops it\n" {
		t.Errorf("exit %d %q", code, &errs)
	}
}

// away is a desk that does not answer a few times, as while its lab is started anew.
type away struct {
	*testDesk
	times int
	after []uint64
}

func (a *away) Watch(ctx context.Context, after uint64) (lab.Snapshot, error) {
	a.after = append(a.after, after)
	if a.times--; a.times >= 0 {
		return lab.Snapshot{}, fmt.Errorf("the lab stopped answering: %w", lab.ErrUnreachable)
	}
	return a.testDesk.Watch(ctx, after)
}

// Who waits bears that the lab is started anew.
func TestWaitBearsANewLab(t *testing.T) {
	b := newBench(t)
	b.furnish()
	var errs bytes.Buffer
	c := &call{term: b.term}
	c.term.Err = &errs
	a := &away{testDesk: b.desk, times: 2}
	s, err := c.watch(t.Context(), a, 1<<40)
	if err != nil || len(s.Machines) == 0 || fmt.Sprint(a.after) != fmt.Sprint([]uint64{1 << 40, 0, 0}) || !strings.Contains(errs.String(), "to come back") {
		t.Errorf("%v after %v: %s", err, a.after, &errs)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := c.watch(ctx, &away{testDesk: b.desk, times: 1 << 30}, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a lab that never comes back: %v", err)
	}
}

// A boot that fails says where it stopped, why, and what to do.
func TestBootFails(t *testing.T) {
	b := newBench(t)
	b.furnish() // boot 2 is starting
	b.serve()
	strike := func() {
		if err := b.desk.Powered(t.Context(), lab.Powered{Machine: 1, Order: "cycle", Err: errors.New("QEMU is not installed")}); err != nil {
			t.Error(err)
		}
	}
	for range lab.MaxStrikes {
		strike()
	}
	out, errs, code := b.run("wait", "boot", "2", "run", "--json")
	if code != 1 || !strings.Contains(errs, `"E-FAILED"`) || !strings.Contains(errs, "boot 2 failed: power cycle: QEMU is not installed (3 attempts)") || !strings.Contains(errs, "carte boot retry 2") || !strings.Contains(out, `"state":"failed"`) {
		t.Errorf("exit %d\n%s\n%s", code, out, errs)
	}
	_, errs, _ = b.run("wait", "boot", "2", "run")
	if strings.Contains(errs, "likely cause") || !strings.Contains(errs, "what to do: ") || !strings.Contains(errs, "carte log vm-1") {
		t.Errorf("for a person: %s", errs)
	}
	if out := b.ok("status"); !strings.Contains(out, "needs you\tvm-1: parked: ") {
		t.Errorf("status:\n%s", out)
	}
}

// What a machine said at its end on its console is said wherever one asks what needs a person.
func TestWhatNeedsAPerson(t *testing.T) {
	b := newBench(t)
	b.furnish() // boot 2 is starting
	b.serve()
	if err := b.desk.Console(t.Context(), 1, []string{"carte: the agent has a bug: nil map"}); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{"status", "status --json", "boot show 2", "boot show 2 --json"} {
		if out := b.ok(args); !strings.Contains(out, "the agent has a bug: nil map") || !strings.Contains(out, "carte log vm-1") {
			t.Errorf("%s:\n%s", args, out)
		}
	}
}

// The boot that was named is the one that is shown, also where its end lets the next one begin.
func TestStopShowsTheBootThatWasNamed(t *testing.T) {
	b := newBench(t)
	b.furnish() // 2 is starting, 3 waits
	if out := b.ok("boot stop 2 -q"); out != "2\n" {
		t.Errorf("stop 2: %q", out)
	}
	if out := b.ok("boot stop vm-1 --json"); !strings.HasPrefix(out, `{"id":3,`) {
		t.Errorf("stop vm-1: %q", out)
	}
	if out := b.ok("boot retry 2 -q"); out != "4\n" {
		t.Errorf("retry 2: %q", out)
	}
}

// An order that ends a boot is asked about; a script that does not say --yes is refused.
func TestPowerEndsABoot(t *testing.T) {
	b := newBench(t)
	b.furnish() // 2 is starting
	b.serve()
	b.ok("queue rm 3")
	if _, errs, code := b.run("machine", "power", "vm-1", "off"); code == 0 || !strings.Contains(errs, "ends boot 2") || !strings.Contains(errs, "--yes") {
		t.Errorf("exit %d: %s", code, errs)
	}
	if out := b.ok("boot show 2"); !strings.Contains(out, "starting") {
		t.Errorf("what was asked about was done: %s", out)
	}
}

// A machine that is off has no console; that is not a lab that cannot be reached.
func TestConsoleOfAMachineThatIsOff(t *testing.T) {
	b := newBench(t)
	b.ok("machine add vm-1 --virtual")
	b.serve()
	if err := b.desk.Powered(t.Context(), lab.Powered{Machine: 1, State: "off"}); err != nil {
		t.Fatal(err)
	}
	if _, errs, code := b.run("console", "vm-1"); code != 4 || !strings.Contains(errs, "vm-1 is off") {
		t.Errorf("exit %d: %s", code, errs)
	}
}

func TestPower(t *testing.T) {
	b := newBench(t)
	b.ok("machine add vm-1 --virtual")
	b.serve()
	wait := b.when("on", ordered, func() {
		if err := b.desk.Powered(t.Context(), lab.Powered{Machine: 1, Order: "on", State: "on"}); err != nil {
			t.Error(err)
		}
	})
	if out := b.ok("machine power vm-1 on"); out != "vm-1\ton\n" {
		t.Errorf("power on: %q", out)
	}
	wait()
	wait = b.when("off", ordered, func() {
		if err := b.desk.Powered(t.Context(), lab.Powered{Machine: 1, Order: "off", Err: fmt.Errorf("the plug does not answer")}); err != nil {
			t.Error(err)
		}
	})
	if _, errs, code := b.run("machine", "power", "vm-1", "off"); code != 1 || !strings.Contains(errs, "the plug does not answer") {
		t.Errorf("power off: exit %d %s", code, errs)
	}
	wait()
	b.ok("machine add r1 --mac 00:11:22:33:44:55")
	wait = b.when("a person", func(s lab.Snapshot) bool { return s.Live[2].Order != "" }, func() {
		if err := b.desk.Powered(t.Context(), lab.Powered{Machine: 2, Order: "on", Err: fmt.Errorf("switch r1 on")}); err != nil {
			t.Error(err)
		}
	})
	if out := b.ok("machine power r1 on"); out != "r1\tswitch r1 on\n" {
		t.Errorf("a machine that a person switches: %q", out)
	}
	wait()
	if out := b.ok("machine show r1"); strings.Contains(out, "trouble") {
		t.Errorf("what a person was asked to do is trouble: %s", out)
	}
	if _, errs, code := b.run("machine", "power", "vm-1", "up"); code != 2 || !strings.Contains(errs, "is not on, off or cycle") {
		t.Errorf("power up: exit %d %s", code, errs)
	}
}

func TestLog(t *testing.T) {
	b := newBench(t)
	b.ok("machine add vm-1 --virtual")
	b.serve()
	b.desk.Log(lab.Line{Machine: 1, Source: "serial", Text: "one \x1b[31mred\x1b[0m line"})
	b.desk.Log(lab.Line{Source: "carte", Text: "two"})
	if out := b.ok("log vm-1"); !strings.HasSuffix(out, "\tvm-1\tserial\tone red line\n") {
		t.Errorf("log vm-1: %q", out)
	}
	if out := b.ok("log --jsonl -n 1"); !strings.Contains(out, `"source":"carte","text":"two"}`) || strings.Count(out, "\n") != 1 {
		t.Errorf("log --jsonl -n 1: %q", out)
	}
	if _, errs, code := b.run("log", "-f", "--json"); code != 2 || !strings.Contains(errs, "--jsonl") {
		t.Errorf("log -f --json: exit %d %s", code, errs)
	}
	// It goes on until it is interrupted.
	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	term := b.term
	term.Out, term.Err = w, io.Discard
	code := make(chan int)
	go func() { code <- Run(ctx, Host{}, term, []string{"log", "-f", "--jsonl", "--state", b.dir}) }()
	dec := json.NewDecoder(r)
	for i, want := range []string{"one red line", "two", "three"} {
		if i == 2 {
			b.desk.Log(lab.Line{Source: "carte", Text: "three"})
		}
		var x lineDoc
		if err := dec.Decode(&x); err != nil || x.Text != want {
			t.Errorf("line %d: %+v, %v", i, x, err)
		}
	}
	cancel()
	if got := <-code; got != 130 {
		t.Errorf("interrupted: exit %d", got)
	}
}

func TestExport(t *testing.T) {
	b := newBench(t)
	b.in = "x"
	b.ok("image import - --name debian")
	b.ok("image import - --name broken")
	file := filepath.Join(t.TempDir(), "out.img")
	b.ok("image export debian -o " + file)
	got, err := os.ReadFile(file)
	if err != nil || len(got) != 1<<20 || string(got[70000:70007]) != "content" {
		t.Errorf("the file has %d bytes, %v", len(got), err)
	}
	if _, errs, code := b.run("image", "export", "debian", "-o", file); code != 4 || !strings.Contains(errs, "--force") {
		t.Errorf("a file that is there: exit %d %s", code, errs)
	}
	b.ok("image export debian --force -o " + file)
	bad := filepath.Join(t.TempDir(), "bad.img")
	if _, errs, code := b.run("image", "export", "broken", "-o", bad); code != 1 || !strings.Contains(errs, "chunk 1 of broken@1") {
		t.Errorf("a broken image: exit %d %s", code, errs)
	}
	if left, _ := os.ReadDir(filepath.Dir(bad)); len(left) > 0 {
		t.Errorf("a broken export left %v", left)
	}
	if out, errs, code := b.run("image", "verify", "--json"); code != 1 || !strings.Contains(out, `"ref":"debian@1","ok":true`) || !strings.Contains(out, `"ref":"broken@1","ok":false`) {
		t.Errorf("verify: exit %d %s%s", code, out, errs)
	}
	b.term.Table = true
	if _, errs, code := b.run("image", "export", "debian", "-o", "-"); code != 2 || !strings.Contains(errs, "is a terminal") {
		t.Errorf("to a terminal: exit %d %s", code, errs)
	}
}

// A command waits a little for another one that has the state open, and goes to the lab when it was that.
func TestStateIsOpenElsewhere(t *testing.T) {
	b := newBench(t)
	b.ok("machine add vm-1 --virtual")
	tries := 0
	h := Host{Open: func(context.Context, string) (lab.Desk, func() error, error) {
		if tries++; tries == 2 {
			b.serve()
		}
		return nil, nil, fmt.Errorf("process 1 has it open: %w", lab.ErrBusy)
	}}
	var out bytes.Buffer
	term := b.term
	term.Out, term.Err = &out, &out
	if code := Run(t.Context(), h, term, []string{"machine", "ls", "-q", "--state", b.dir}); code != 0 || out.String() != "vm-1\n" || tries != 2 {
		t.Errorf("exit %d after %d tries: %s", code, tries, &out)
	}
}

func TestDemo(t *testing.T) {
	for _, metrics := range []bool{true, false} {
		b := newBench(t)
		h := Host{
			DemoImage: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("ext4")), nil },
			Serve: func(ctx context.Context, o ServeOptions, with func(context.Context, lab.Desk) error) error {
				if o.State != b.dir {
					t.Errorf("the demo is in %s", o.State)
				}
				wait := b.when("demo", ordered, func() {
					if metrics {
						b.finish(demoMachines[0])
					} else if _, err := b.desk.Say(ctx, lab.Stop{Boot: 1, Reason: "no"}); err != nil {
						t.Error(err)
					}
				})
				defer wait()
				return with(ctx, b.desk)
			},
		}
		var out, errs bytes.Buffer
		term := b.term
		term.Out, term.Err = &out, &errs
		code := Run(t.Context(), h, term, []string{"demo", "--headless", "--json", "--state", b.dir})
		var doc demoDoc
		if err := json.Unmarshal(out.Bytes(), &doc); err != nil {
			t.Fatalf("exit %d: %v: %s%s", code, err, &out, &errs)
		}
		switch {
		case metrics && (code != 0 || !doc.OK || doc.Machine != "vm-1" || doc.Metrics["speed"].Value != 1.5 || doc.Boot.Total == 0 || doc.Boot.Rungs[1].Name != lab.RungDHCP):
			t.Errorf("exit %d %+v\n%s", code, doc, &errs)
		case !metrics && (code != 1 || doc.OK || !strings.Contains(errs.String(), "boot 1 revoked: no")):
			t.Errorf("exit %d %+v\n%s", code, doc, &errs)
		}
		if metrics {
			var any map[string]any
			if err := json.Unmarshal(out.Bytes(), &any); err != nil {
				t.Fatal(err)
			}
			golden(t, "demo.schema", schema(any, ""))
		}
	}
	b := newBench(t)
	b.desk.findings = []lab.Finding{{What: "virtual machines", Must: true, Why: "virtual machines need QEMU", Fix: "apt-get install qemu-system-x86"}}
	h := Host{Serve: func(ctx context.Context, _ ServeOptions, with func(context.Context, lab.Desk) error) error {
		return with(ctx, b.desk)
	}}
	var errs bytes.Buffer
	term := b.term
	term.Out, term.Err = io.Discard, &errs
	if code := Run(t.Context(), h, term, []string{"demo", "--headless", "--state", b.dir}); code != 4 || !strings.Contains(errs.String(), "what to do: apt-get install qemu-system-x86") {
		t.Errorf("without QEMU: exit %d %s", code, &errs)
	}
}

// The demo touches nothing that is not its own, and has a machine for each firmware.
func TestDemoLeavesALabAlone(t *testing.T) {
	for what, prepare := range map[string][]string{
		"the machine vm-1":   {"machine add vm-1 --virtual --disk 8G"},
		"the machine nuc-1":  {"machine add nuc-1 --mac 00:11:22:33:44:55"},
		"another image demo": {"image import - --name demo --form disk"},
		"another stack demo": {"image import - --name debian", "stack new demo --system debian"},
		"":                   {"machine add vm-1 --virtual --disk 256M"},
	} {
		b := newBench(t)
		for _, line := range prepare {
			b.in = "bytes"
			b.ok(line)
		}
		before, err := b.desk.Watch(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = demoVM(t.Context(), b.desk, before, lab.BIOS)
		if what == "" && err != nil || what != "" && (!errors.Is(err, lab.ErrRefused) || !strings.Contains(err.Error(), "this lab has "+what)) {
			t.Errorf("%s: %v", what, err)
		}
		if after, _ := b.desk.Watch(t.Context(), 0); after.Rev != before.Rev {
			t.Errorf("%s: the lab has changed", what)
		}
	}
	b := newBench(t)
	for _, c := range []struct {
		firmware lab.Firmware
		name     string
	}{{lab.BIOS, "vm-1"}, {lab.UEFI, "vm-2"}, {lab.BIOS, "vm-1"}, {lab.UEFI, "vm-2"}} {
		s, _ := b.desk.Watch(t.Context(), 0)
		if name, err := demoVM(t.Context(), b.desk, s, c.firmware); err != nil || name != c.name {
			t.Errorf("%s: %s, %v", c.firmware, name, err)
		}
	}
}

// The socket of another program is not a lab's.
func TestSocketOfSomethingElse(t *testing.T) {
	b := newBench(t)
	ln, err := net.Listen("unix", filepath.Join(b.dir, remote.SocketName))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		if c, err := ln.Accept(); err == nil {
			c.Close()
		}
	}()
	if _, errs, code := b.run("machine", "ls"); code != 8 || !strings.Contains(errs, "stopped answering") || strings.Contains(errs, "http://") {
		t.Errorf("exit %d %s", code, errs)
	}
}

// An import that is interrupted says what became of it.
func TestImportInterrupted(t *testing.T) {
	b := newBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	h := Host{Open: func(context.Context, string) (lab.Desk, func() error, error) {
		return stuck{b.desk, cancel}, func() error { return nil }, nil
	}}
	var errs bytes.Buffer
	term := b.term
	term.In, term.Out, term.Err = strings.NewReader("x"), io.Discard, &errs
	code := Run(ctx, h, term, []string{"image", "import", "-", "--name", "debian", "--state", b.dir})
	if code != 130 || errs.String() != "carte: interrupted; nothing of debian was kept\n" {
		t.Errorf("exit %d %q", code, &errs)
	}
}

// stuck is a desk whose imports end by a cancel.
type stuck struct {
	*testDesk
	cancel func()
}

func (s stuck) Import(ctx context.Context, _ io.Reader, i lab.Import, _ func(int64)) (lab.Imported, error) {
	s.cancel()
	<-ctx.Done()
	return lab.Imported{}, fmt.Errorf("import %s at byte 7: %w", i.Name, ctx.Err())
}
