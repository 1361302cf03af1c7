package qemu

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"carte/netboot/payload"

	"golang.org/x/sys/unix"
)

// patience is far longer than anything here takes on an idle machine.
const patience = 3 * time.Minute

// find skips the test when this computer or this run has no virtual machines.
func find(t *testing.T) Tools {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: starts QEMU")
	}
	tools, err := Find(t.Context())
	if err != nil {
		t.Skip(err)
	}
	return tools
}

// screen keeps what a machine prints and tells who waits for words.
type screen struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{}
}

func newScreen() *screen { return &screen{changed: make(chan struct{})} }

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// wait returns when the screen has shown words.
func (s *screen) wait(t *testing.T, vm *VM, words string) {
	t.Helper()
	limit := time.After(patience)
	for {
		s.mu.Lock()
		found, changed := bytes.Contains(s.text.Bytes(), []byte(words)), s.changed
		s.mu.Unlock()
		if found {
			return
		}
		select {
		case <-changed:
		case <-vm.Done():
			if !strings.Contains(s.String(), words) {
				t.Fatalf("the machine is off and did not print %q; its console:\n%s", words, s)
			}
		case <-limit:
			t.Fatalf("no %q in %v; console:\n%s", words, patience, s)
		}
	}
}

// start runs a machine until the test ends; end waits for it to be off.
func start(t *testing.T, tools Tools, s Spec) (vm *VM, scr *screen, end func() error) {
	t.Helper()
	scr = newScreen()
	vm, err := New(tools, s, scr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- vm.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-vm.Done() })
	select {
	case <-vm.Started():
	case <-vm.Done():
		t.Fatal(<-ended)
	}
	return vm, scr, func() error {
		select {
		case err := <-ended:
			return err
		case <-time.After(patience):
			t.Fatal("the machine does not end")
			return nil
		}
	}
}

func TestVerbs(t *testing.T) {
	tools := find(t)
	ctx := t.Context()
	vm, scr, end := start(t, tools, plain(t.TempDir()))
	if state, err := vm.State(ctx); state != "running" || err != nil {
		t.Errorf("State() = %q, %v, want running", state, err)
	}
	scr.wait(t, vm, "SeaBIOS")
	if err := vm.Reset(ctx); err != nil {
		t.Error(err)
	}
	if err := vm.PowerDown(ctx); err != nil {
		t.Error(err)
	}
	if _, err := vm.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if err := vm.PowerOff(ctx); err != nil {
		t.Error(err)
	}
	if err := end(); err != nil {
		t.Errorf("Run after PowerOff: %v, want nil", err)
	}
	if state, err := vm.State(ctx); state != "off" || err != nil {
		t.Errorf("State() = %q, %v, want off", state, err)
	}
	if err := vm.PowerOff(ctx); err != nil {
		t.Errorf("PowerOff of a machine that is off: %v", err)
	}
	if _, err := vm.Write([]byte("x")); err == nil {
		t.Error("a machine that is off took a key")
	}
}

// A QEMU that hangs is killed, and that is a power-off like any other.
func TestPowerOffOfAHungQEMU(t *testing.T) {
	vm, _, end := start(t, find(t), plain(t.TempDir()))
	if err := unix.Kill(vm.PID(), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := vm.PowerOff(t.Context()); err != nil {
		t.Error(err)
	}
	if err := end(); err != nil {
		t.Errorf("Run: %v, want nil", err)
	}
}

func TestCancel(t *testing.T) {
	vm, err := New(find(t), plain(t.TempDir()), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-vm.Started(); cancel() }()
	if err := vm.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v, want cancelled", err)
	}
}

func TestQEMURefuses(t *testing.T) {
	tools := find(t)
	s := plain(t.TempDir())
	s.ROM = ROM(filepath.Join(s.Dir, "no-such.rom"))
	vm, err := New(tools, s, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if err := vm.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "no-such.rom") {
		t.Errorf("Run = %v, want QEMU's own words", err)
	}
	if vm.PID() != 0 {
		t.Error("a machine that did not start has a process id")
	}
}

func TestProbe(t *testing.T) {
	tools := find(t)
	if err := probe(t.Context(), tools, "tcg", patience); err != nil {
		t.Errorf("the boot sector does not run where everything runs: %v", err)
	}
	if err := probe(t.Context(), tools, "no-such", patience); err == nil {
		t.Error("an accelerator that is not there was found")
	}
	began := time.Now()
	accel, why := Accel(t.Context(), tools)
	t.Logf("Accel() = %s, %s (%v)", accel, why, time.Since(began).Round(time.Millisecond))
	if accel != "tcg" && accel != "kvm" || why == "" {
		t.Errorf("Accel() = %q, %q", accel, why)
	}
	if took := time.Since(began); took > 10*probeLimit {
		t.Errorf("Accel() took %v", took)
	}
}

// The environment variable that makes the test binary the process to be killed.
const killEnv = "CARTE_TEST_KILL_DIR"

// TestDiesWithItsParent starts a second process that runs a machine, kills it with
// SIGKILL, and sees QEMU go. It is waited for through a pidfd, so that no other
// process of the same number is mistaken for it.
func TestDiesWithItsParent(t *testing.T) {
	tools := find(t)
	if dir := os.Getenv(killEnv); dir != "" {
		vm, _, _ := start(t, tools, plain(dir))
		fmt.Printf("qemu %d\n", vm.PID())
		<-vm.Done()
		return
	}
	parent := exec.Command(os.Args[0], "-test.run=^TestDiesWithItsParent$")
	parent.Env = append(os.Environ(), killEnv+"="+t.TempDir())
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	defer parent.Wait()
	defer parent.Process.Kill()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(line, "qemu ")))
	if err != nil {
		t.Fatalf("the helper said %q", line)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 20_000)
	if n != 1 || err != nil {
		unix.Kill(pid, unix.SIGKILL)
		t.Errorf("QEMU lives 20 s after its parent was killed (poll: %d, %v)", n, err)
	}
}

// TestDirectKernel boots the agent's kernel and an initramfs of ours with a small
// init: what the payload package writes is what that kernel can start.
func TestDirectKernel(t *testing.T) {
	tools := find(t)
	kernel, err := payload.Payload{}.Kernel()
	if err != nil {
		t.Skip(err)
	}
	s := plain(t.TempDir())
	s.Kernel, s.Initrd, s.Cmdline = bootFiles(t, kernel)
	vm, scr, end := start(t, tools, s)
	scr.wait(t, vm, "hello from pid 1")
	if _, err := vm.Write([]byte("typed\n")); err != nil {
		t.Fatal(err)
	}
	scr.wait(t, vm, `read "typed"`)
	if err := end(); err != nil {
		t.Errorf("Run = %v after the system powered off, want nil", err)
	}
}

// initSource is the smallest system there is: it says hello, reads a line, and
// powers off.
const initSource = `package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"syscall"
)

func main() {
	fmt.Printf("hello from pid %d\n", os.Getpid())
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	fmt.Printf("read %q %v\n", strings.TrimSpace(line), err)
	fmt.Println("power off:", syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF))
	select {}
}
`

// bootFiles writes the kernel and an initramfs of initSource.
func bootFiles(t *testing.T, kernel []byte) (kernelPath, initrdPath, cmdline string) {
	t.Helper()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(path("init.go"), []byte(initSource), 0o644); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", path("init"), path("init.go"))
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build init: %v\n%s", err, out)
	}
	init, err := os.ReadFile(path("init"))
	if err != nil {
		t.Fatal(err)
	}
	initrd, err := payload.Initramfs(init)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(path("kernel"), kernel, 0o644), os.WriteFile(path("initrd"), initrd, 0o644)); err != nil {
		t.Fatal(err)
	}
	return path("kernel"), path("initrd"), "console=ttyS0 panic=-1"
}

// TestUserNetwork boots a script over HTTP from this process's loopback, as a user
// without rights, with either firmware. The script asks for one more address and
// says who it is.
func TestUserNetwork(t *testing.T) {
	tools := find(t)
	for _, firmware := range []string{"bios", "uefi"} {
		t.Run(firmware, func(t *testing.T) {
			s := plain(t.TempDir())
			s.UEFI, s.UUID = firmware == "uefi", "6ba7b810-9dad-41d1-80b4-00c04fd430c8"
			if s.UEFI && tools.Code == "" {
				t.Skip("OVMF is not installed: " + Install)
			}
			said := make(chan string, 1)
			s.Boot = serveScript(t, said)
			vm, scr, end := start(t, tools, s)
			select {
			case got := <-said:
				if want := firmwareName[firmware] + " 52:54:00:00:00:01 " + s.UUID; got != want {
					t.Errorf("the script said %q, want %q", got, want)
				}
			case <-vm.Done():
				t.Fatalf("the machine is off; console:\n%s", scr)
			case <-time.After(patience):
				t.Fatalf("no script in %v; console:\n%s", patience, scr)
			}
			// The ROM's words are in the machine's log.
			if log := scr.String(); !strings.Contains(log, "iPXE") {
				t.Errorf("no word of the ROM on the console:\n%s", log)
			}
			if err := vm.PowerOff(t.Context()); err != nil {
				t.Error(err)
			}
			if err := end(); err != nil {
				t.Error(err)
			}
		})
	}
}

// firmwareName is iPXE's ${platform}.
var firmwareName = map[string]string{"bios": "pcbios", "uefi": "efi"}

// serveScript serves a boot script on the loopback and returns its address as a
// machine on QEMU's own network sees it.
func serveScript(t *testing.T, said chan<- string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	base := fmt.Sprintf("http://10.0.2.2:%d", l.Addr().(*net.TCPAddr).Port)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /boot.ipxe", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "#!ipxe\nimgfetch %s/said?p=${platform}&m=${net0/mac}&u=${uuid}\n:hold\nsleep 1\ngoto hold\n", base)
	})
	mux.HandleFunc("GET /said", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		select {
		case said <- q.Get("p") + " " + q.Get("m") + " " + q.Get("u"):
		default:
		}
	})
	srv := &http.Server{Handler: mux}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() { srv.Close(); <-done })
	return base + "/boot.ipxe"
}
