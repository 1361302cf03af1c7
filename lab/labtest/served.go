package labtest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"carte/lab"
	"carte/lab/remote"
	"carte/netboot/payload"
)

// Served is a lab in a process of its own: the real carte serve, which can be killed. It is a desk, for one goroutine at
// a time, through the lab's socket.
type Served struct {
	*remote.Client
	Dir string // the state
	URL string // of the boot scripts, without the last slash

	args    []string
	process *os.Process
	ended   chan error // gets how the process ended, once
	said    *said
}

// Serve starts carte serve on a new state, on the loopback. It ends with the test. With flags it is served as they say.
func Serve(t testing.TB, flags ...string) *Served {
	t.Helper()
	listen, api := freePort(t), freePort(t)
	s := &Served{Dir: filepath.Join(t.TempDir(), "lab"), URL: "http://" + listen}
	s.args = append([]string{"serve", "--state", s.Dir, "--listen", listen, "--listen-api", api}, flags...)
	s.Start(t)
	t.Cleanup(func() {
		if s.process != nil {
			s.Stop(t)
		}
	})
	return s
}

// SmallFiles are flags for machines that do not execute their kernel.
func SmallFiles(t testing.TB) []string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{payload.KernelFile, payload.AgentFile} {
		if err := os.WriteFile(filepath.Join(dir, name), bytes.Repeat([]byte(name), 99_999), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return []string{"--boot-files", dir}
}

// Start starts the process, again after Kill9 or Stop, and returns when it serves.
func (s *Served) Start(t testing.TB) {
	t.Helper()
	program, err := carte()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(fmt.Sprintf("/proc/self/fd/%d", program.Fd()), s.args...)
	cmd.Args[0] = "carte"
	cmd.Env = append(os.Environ(), "CARTE_STATE=")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	s.said = &said{want: "carte serves the lab in ", serves: make(chan struct{})}
	cmd.Stderr = s.said
	started := make(chan error)
	s.ended = make(chan error, 1)
	go func() { // it keeps its thread, whose end would be the end of the process; it is waited for in end
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			s.ended <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	s.process = cmd.Process
	select {
	case <-s.said.serves:
	case err := <-s.ended:
		s.process = nil
		t.Fatalf("carte serve: %v:\n%s", err, s.said)
	case <-time.After(Patience):
		t.Fatalf("carte serve is not ready after %v:\n%s", Patience, s.said)
	}
	if s.Client, err = remote.Dial(s.Dir); err != nil {
		t.Fatalf("%v:\n%s", err, s.said)
	}
}

// Kill9 ends the process as a power cut would, and returns when it is gone.
func (s *Served) Kill9(t testing.TB) {
	t.Helper()
	if err := s.end(t, syscall.SIGKILL); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("carte serve ended before it was killed: %v:\n%s", err, s.said)
	}
}

// Stop ends the process as Ctrl-C does. It must end well.
func (s *Served) Stop(t testing.TB) {
	t.Helper()
	if err := s.end(t, syscall.SIGTERM); err != nil {
		t.Errorf("carte serve ended with %v:\n%s", err, s.said)
	}
}

func (s *Served) end(t testing.TB, with syscall.Signal) error {
	t.Helper()
	if err := errors.Join(s.Client.Close(), s.process.Signal(with)); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
	defer func() { s.process = nil }()
	select {
	case err := <-s.ended:
		return err
	case <-time.After(Patience):
		err := errors.Join(s.process.Kill(), <-s.ended)
		return fmt.Errorf("it did not end within %v: %w", Patience, err)
	}
}

// Metal is Metal for a lab in its own process.
func (s *Served) Metal(t testing.TB, n int, diskBytes int64) *Sim {
	t.Helper()
	return metal(t, s, s.URL, n, diskBytes)
}

// Now is the lab as it is.
func Now(t testing.TB, d lab.Desk) lab.Snapshot {
	t.Helper()
	s, err := d.Watch(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// PID is the process's number.
func (s *Served) PID() int { return s.process.Pid }

// Children are the processes that the server has started.
func (s *Served) Children(t testing.TB) (pids []int) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", s.process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, _ := os.ReadFile(file) // a thread may be gone by now
		for _, word := range strings.Fields(string(text)) {
			var pid int
			if _, err := fmt.Sscan(word, &pid); err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// carte is the program, built once for all tests of this process, with the payload where there is one. It has no name
// on disk any more, so that nothing is left of it.
var carte = sync.OnceValues(func() (*os.File, error) {
	dir, err := os.MkdirTemp("", "carte-test-")
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "carte")
	build := exec.Command("go", "build", "-o", file, "carte")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("%v: %w:\n%s", build, err, out), os.RemoveAll(dir))
	}
	f, err := os.Open(file)
	return f, errors.Join(err, os.RemoveAll(dir))
})

// ports are what freePort gave out.
var ports = struct {
	sync.Mutex
	next int
}{next: 20000 + os.Getpid()%8000}

// freePort is an address of the loopback that nobody listens on. It is below the ports that the kernel gives to clients:
// one of those could take it while the server is away.
func freePort(t testing.TB) string {
	t.Helper()
	ports.Lock()
	defer ports.Unlock()
	for ports.next < 32000 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", ports.next))
		if ports.next++; err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return l.Addr().String()
	}
	t.Fatal("no port is free")
	return ""
}

// said keeps what a process says, and sees when it serves.
type said struct {
	want   string
	serves chan struct{}

	mu   sync.Mutex
	once sync.Once
	text bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.Write(p)
	if strings.Contains(s.text.String(), s.want) {
		s.once.Do(func() { close(s.serves) })
	}
	return len(p), nil
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}
