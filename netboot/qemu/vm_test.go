package qemu_test

import (
	"bufio"
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
	"testing"
	"time"

	"carte/lab/labtest"
	"carte/netboot/payload"
	"carte/netboot/qemu"

	"golang.org/x/sys/unix"
)

func TestVerbs(t *testing.T) {
	ctx := t.Context()
	vm := labtest.VM(t, qemu.Spec{Disk: 64 << 20})
	if state, err := vm.State(ctx); state != "running" || err != nil {
		t.Errorf("State() = %q, %v, want running", state, err)
	}
	vm.Shows(t, "SeaBIOS")
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
	if err := vm.Ends(t); err != nil {
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
	vm := labtest.VM(t, qemu.Spec{})
	if err := unix.Kill(vm.PID(), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := vm.PowerOff(t.Context()); err != nil {
		t.Error(err)
	}
	if err := vm.Ends(t); err != nil {
		t.Errorf("Run: %v, want nil", err)
	}
}

func TestCancel(t *testing.T) {
	vm, err := qemu.New(labtest.QEMU(t), spec(t), io.Discard)
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
	tools := labtest.QEMU(t)
	s := spec(t)
	s.ROM = qemu.ROM(filepath.Join(s.Dir, "no-such.rom"))
	vm, err := qemu.New(tools, s, io.Discard)
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

// The environment variable that makes the test binary the process to be killed.
const killEnv = "CARTE_TEST_KILL_DIR"

// TestDiesWithItsParent starts a second process that runs a machine, kills it with
// SIGKILL, and sees QEMU go. It is waited for through a pidfd, so that no other
// process of the same number is mistaken for it.
func TestDiesWithItsParent(t *testing.T) {
	labtest.QEMU(t)
	if dir := os.Getenv(killEnv); dir != "" {
		vm := labtest.VM(t, qemu.Spec{Dir: dir})
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
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 20_000)
	}
	if n != 1 || err != nil {
		unix.Kill(pid, unix.SIGKILL)
		t.Errorf("QEMU lives 20 s after its parent was killed (poll: %d, %v)", n, err)
	}
}

// TestDirectKernel boots the agent's kernel and an initramfs of ours with a small
// init: what the payload package writes is what that kernel can start.
func TestDirectKernel(t *testing.T) {
	kernel, err := payload.Payload{}.Kernel()
	if err != nil {
		t.Skip(err)
	}
	labtest.QEMU(t)
	var s qemu.Spec
	s.Kernel, s.Initrd, s.Cmdline = bootFiles(t, kernel)
	vm := labtest.VM(t, s)
	vm.Shows(t, "hello from pid 1")
	if _, err := vm.Write([]byte("typed\n")); err != nil {
		t.Fatal(err)
	}
	vm.Shows(t, `read "typed"`)
	if err := vm.Ends(t); err != nil {
		t.Errorf("Run = %v after the system powered off, want nil", err)
	}
}

// spec is a machine that New accepts.
func spec(t *testing.T) qemu.Spec {
	return qemu.Spec{
		Name: "vm-1", Dir: t.TempDir(), Memory: 256 << 20, CPUs: 1, Accel: "tcg",
		MAC: net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1},
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
	for _, firmware := range []string{"bios", "uefi"} {
		t.Run(firmware, func(t *testing.T) {
			s := qemu.Spec{UEFI: firmware == "uefi", UUID: "6ba7b810-9dad-41d1-80b4-00c04fd430c8"}
			said := make(chan string, 1)
			s.Boot = serveScript(t, said)
			vm := labtest.VM(t, s)
			select {
			case got := <-said:
				if want := firmwareName[firmware] + " 52:54:00:00:00:01 " + s.UUID; got != want {
					t.Errorf("the script said %q, want %q", got, want)
				}
			case <-vm.Done():
				t.Fatal("the machine is off and did not say anything")
			case <-time.After(labtest.Patience):
				t.Fatalf("no script in %v", labtest.Patience)
			}
			// The ROM's words are in the machine's log.
			if log := vm.Console.String(); !strings.Contains(log, "iPXE") {
				t.Errorf("no word of the ROM on the console:\n%s", log)
			}
			if err := vm.PowerOff(t.Context()); err != nil {
				t.Error(err)
			}
			if err := vm.Ends(t); err != nil {
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
