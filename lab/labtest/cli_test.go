package labtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/rogpeppe/go-internal/testscript"

	"carte/lab/remote"
)

// place puts the program, under its name, into a folder.
func place(dir string) error {
	f, err := carte()
	if err != nil {
		return err
	}
	return os.Symlink(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()), filepath.Join(dir, "carte"))
}

// The scripts drive the real program, as a person or a script of theirs would.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			bin := filepath.Join(e.WorkDir, "bin")
			if err := os.Mkdir(bin, 0o700); err != nil {
				return err
			}
			e.Setenv("PATH", bin+string(os.PathListSeparator)+e.Getenv("PATH"))
			e.Setenv("CARTE_STATE", filepath.Join(e.WorkDir, "lab"))
			e.Setenv("HOME", e.WorkDir)
			return place(bin)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exit":    exitCode,
			"serving": serving,
			"zeros":   zeros,
		},
	})
}

// exit CODE WORDS... runs a program that must end with that code.
func exitCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exit CODE PROGRAM ARGUMENT...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	var e *exec.ExitError
	if errors.As(err, &e) {
		got = fmt.Sprint(e.ExitCode())
	}
	if got != args[0] {
		ts.Fatalf("%q ended with %s, not %s: %v", args[1:], got, args[0], err)
	}
}

// serving waits until a lab answers in $CARTE_STATE, or, with !, until none does.
func serving(ts *testscript.TestScript, neg bool, _ []string) {
	dir := ts.Getenv("CARTE_STATE")
	again := time.NewTicker(10 * time.Millisecond) // another process; nothing here announces it
	defer again.Stop()
	for end := time.Now().Add(Patience); ; {
		c, err := remote.Dial(dir)
		if err == nil {
			ts.Check(c.Close())
		}
		if (err != nil) == neg {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("a lab in %s: %v", dir, err)
		}
		<-again.C
	}
}

// zeros FILE KIB writes a file of so many KiB: zeros, with a word in every 64th.
func zeros(ts *testscript.TestScript, neg bool, args []string) {
	var n int
	if _, err := fmt.Sscan(args[1], &n); neg || err != nil {
		ts.Fatalf("usage: zeros FILE KIB")
	}
	b := make([]byte, n<<10)
	for i := 0; i < len(b); i += 64 << 10 {
		copy(b[i:], fmt.Sprintf("block %d", i))
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o600))
}

// A terminal that answers nothing is a serial line, a CI job, expect. Every command ends in under 200 ms there, and
// writes nothing that steers a terminal.
func TestMuteTerminal(t *testing.T) {
	dir := t.TempDir()
	if err := place(dir); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(dir, "lab")
	for _, line := range []string{
		"version", "--version", "help", "help machine arm", "status", "machine add vm-1 --virtual", "machine ls", "machine show vm-1", "machine set vm-1 note=here",
		"image ls", "stack ls", "queue ls", "boot show vm-1", "machine ls --json", "machien", "log -f", "wait machine vm-1 on", "machine power vm-1 on", "doctor",
		"completion bash", "boot x --on vm-1 --wait done", "demo --firmware x", "serve --dhcp x",
	} {
		best := time.Hour
		for range 3 {
			out, took := mute(t, filepath.Join(dir, "carte"), append(strings.Fields(line), "--state", state))
			if best = min(best, took); bytes.ContainsRune(out, 0x1b) {
				t.Errorf("carte %s steers the terminal: %q", line, out)
			}
		}
		if best > 200*time.Millisecond {
			t.Errorf("carte %s takes %s", line, best)
		}
	}
}

// mute runs a command on a terminal that only listens.
func mute(t *testing.T, program string, args []string) (out []byte, took time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "TERM=xterm-256color", "CARTE_STATE=")
	began := time.Now()
	f, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 80})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b bytes.Buffer
	b.ReadFrom(f) // ends with EIO when the program does
	var e *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &e) || e != nil && e.ExitCode() < 0 {
		t.Fatalf("%s %q: %v: %s", program, args, err, &b)
	}
	return b.Bytes(), time.Since(began)
}

// The screen of a lab that runs in the same process, on a terminal that answers nothing: it is there at once, leaves the
// terminal as it was, and takes the lab with it.
func TestScreenInAMuteTerminal(t *testing.T) {
	dir := t.TempDir()
	if err := place(dir); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(dir, "lab")
	cmd := exec.Command(filepath.Join(dir, "carte"), "--state", state)
	cmd.Env = append(os.Environ(), "TERM=xterm-256color", "LANG=C.UTF-8", "LC_ALL=", "CARTE_STATE=")
	f, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 80})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	stop := time.AfterFunc(Patience, func() { cmd.Process.Kill() })
	defer stop.Stop()
	seen := readUntil(t, f, "No machines yet")
	if bytes.Contains(seen, []byte("\x1b]11;?")) {
		t.Errorf("the screen asks the terminal for its colours: %q", seen)
	}
	c, err := remote.Dial(state)
	if err != nil {
		t.Errorf("the lab of the screen: %v", err)
	} else if v, err := c.Version(t.Context()); err != nil || v.PID != cmd.Process.Pid {
		t.Errorf("the lab of the screen: %+v, %v", v, err)
	} else {
		c.Close()
	}
	if _, err := f.WriteString("q"); err != nil {
		t.Fatal(err)
	}
	left := readUntil(t, f, "\x1b[?1049l")
	var rest bytes.Buffer
	rest.ReadFrom(f)
	if err := cmd.Wait(); err != nil {
		t.Errorf("carte ended with %v: %q%q", err, left, &rest)
	}
	if _, err := remote.Dial(state); err == nil {
		t.Error("the lab goes on without its process")
	}
}

func readUntil(t *testing.T, f *os.File, want string) []byte {
	t.Helper()
	var all []byte
	for buf := make([]byte, 4096); ; {
		n, err := f.Read(buf)
		if all = append(all, buf[:n]...); bytes.Contains(all, []byte(want)) {
			return all
		}
		if err != nil {
			t.Fatalf("no %q came: %v: %q", want, err, all)
		}
	}
}
