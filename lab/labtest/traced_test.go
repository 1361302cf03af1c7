package labtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A touch is a system call that changes something on the disk.
type touch struct {
	call string
	file string // its name below the folder that is watched, with numbers taken out
}

func (c touch) String() string { return c.call + " " + c.file }

// touches are the calls that count, with the place of the file among their arguments: a descriptor, or a path.
var touches = map[uint64]struct {
	name string
	arg  int
	path bool
}{
	unix.SYS_WRITE: {"write", 0, false}, unix.SYS_PWRITE64: {"pwrite", 0, false}, unix.SYS_FSYNC: {"fsync", 0, false}, unix.SYS_FDATASYNC: {"fdatasync", 0, false},
	unix.SYS_FTRUNCATE: {"ftruncate", 0, false}, unix.SYS_FALLOCATE: {"fallocate", 0, false},
	unix.SYS_RENAME: {"rename", 0, true}, unix.SYS_RENAMEAT: {"rename", 1, true}, unix.SYS_RENAMEAT2: {"rename", 1, true},
	unix.SYS_UNLINK: {"unlink", 0, true}, unix.SYS_UNLINKAT: {"unlink", 1, true}, unix.SYS_MKDIRAT: {"mkdir", 1, true}, unix.SYS_MKDIR: {"mkdir", 0, true},
}

// traced runs the program on a folder and stops it with SIGKILL where it is about to make its killAt-th touch below that folder, counted over all of
// its threads; with 0, never. It returns what it had touched, what it said, and whether it was killed. strace counts each thread for itself, so that
// most moments could not be named with it.
func traced(t *testing.T, dir string, killAt int, args ...string) (all []touch, said string, killed bool) {
	t.Helper()
	program, err := carte()
	if err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread() // who starts a traced process is its tracer
	defer runtime.UnlockOSThread()
	var out bytes.Buffer
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p, err := os.StartProcess(fmt.Sprintf("/proc/self/fd/%d", program.Fd()), append([]string{"carte"}, args...), &os.ProcAttr{
		Env:   append(os.Environ(), "CARTE_STATE="+dir),
		Files: []*os.File{nil, w, w},
		Sys:   &syscall.SysProcAttr{Ptrace: true, Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	heard := make(chan error, 1)
	go func() {
		_, err := out.ReadFrom(r)
		heard <- errors.Join(err, r.Close())
	}()
	tr := &tracer{pid: p.Pid, dir: dir, killAt: killAt, inside: map[int]bool{}}
	status, err := tr.follow()
	if err := errors.Join(err, <-heard); err != nil {
		t.Fatal(err)
	}
	killed = status.Signaled() && status.Signal() == syscall.SIGKILL
	if !killed && status.ExitStatus() != 0 {
		t.Fatalf("carte %s ended with %d:\n%s", strings.Join(args, " "), status.ExitStatus(), &out)
	}
	return tr.all, out.String(), killed
}

// A tracer follows a process and its threads from one system call to the next.
type tracer struct {
	pid    int
	dir    string
	killAt int
	all    []touch
	inside map[int]bool // threads that are in a system call
}

// follow returns how the process ended.
func (tr *tracer) follow() (end syscall.WaitStatus, err error) {
	var ws syscall.WaitStatus
	if _, err := syscall.Wait4(tr.pid, &ws, 0, nil); err != nil {
		return ws, err
	}
	const options = unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_EXITKILL
	if err := syscall.PtraceSetOptions(tr.pid, options); err != nil {
		return ws, err
	}
	if err := syscall.PtraceSyscall(tr.pid, 0); err != nil {
		return ws, err
	}
	for {
		tid, err := syscall.Wait4(-1, &ws, unix.WALL|unix.WNOTHREAD, nil)
		if err != nil {
			return ws, err
		}
		if ws.Exited() || ws.Signaled() {
			if delete(tr.inside, tid); tid == tr.pid {
				return ws, nil
			}
			continue
		}
		pass := 0
		switch sig := ws.StopSignal(); {
		case sig == syscall.SIGTRAP|0x80:
			if tr.inside[tid] = !tr.inside[tid]; tr.inside[tid] && tr.deadly(tid) {
				if err := syscall.Kill(tr.pid, syscall.SIGKILL); err != nil {
					return ws, err
				}
				continue
			}
		case sig == syscall.SIGTRAP, sig == syscall.SIGSTOP: // a new thread
		default:
			pass = int(sig)
		}
		if err := syscall.PtraceSyscall(tid, pass); err != nil && !errors.Is(err, syscall.ESRCH) {
			return ws, err
		}
	}
}

// deadly counts the call that a thread is about to make, and says whether it is the one.
func (tr *tracer) deadly(tid int) bool {
	var regs syscall.PtraceRegs
	if err := syscall.PtraceGetRegs(tid, &regs); err != nil {
		return false // it is gone
	}
	call, ok := touches[regs.Orig_rax]
	if !ok {
		return false
	}
	arg := [...]uint64{regs.Rdi, regs.Rsi}[call.arg]
	file := ""
	if call.path {
		file = tr.text(tid, uintptr(arg))
	} else {
		file, _ = os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", tr.pid, int32(arg)))
	}
	file, ok = strings.CutPrefix(file, tr.dir)
	if !ok {
		return false
	}
	tr.all = append(tr.all, touch{call.name, strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return '#'
		}
		return r
	}, filepath.Dir(file)+"/"+kindOf(filepath.Base(file)))})
	return len(tr.all) == tr.killAt
}

// kindOf is a file's name without what differs from run to run.
func kindOf(name string) string {
	if len(name) >= 64 {
		return "ID" + name[64:]
	}
	return name
}

// text reads a path from the memory of a thread.
func (tr *tracer) text(tid int, at uintptr) string {
	b := make([]byte, 4096)
	n, _ := syscall.PtracePeekData(tid, at, b)
	s, _, _ := strings.Cut(string(b[:n]), "\x00")
	return s
}
