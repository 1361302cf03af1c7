package agent

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"carte/agent/shim"
)

// shimTask and backDir are what spawnShim is handed.
type (
	shimTask = shim.Task
	backDir  = shim.Back
)

// ShimName is the shim's name. systemd-shutdown leaves alone whose name begins with @, so that a shim may work to the end.
const ShimName = "@carte-shim"

// What the shim's process inherits behind its three standard files: its task, a pipe that ends when process 1 has become
// the user's init, and the directories of its task's Backs in their order.
const (
	shimTaskFD = 3 + iota
	shimGateFD
	shimBacksFD
)

// spawnShim starts the shim as a process of its own, which waits until this one, process 1, has become the user's init. It
// must be the last thing before that exec: /proc, /run and each Upper lie where this process sees them. The process needs
// nothing of the initramfs once spawnShim has returned.
func spawnShim(task shimTask) error {
	var gate [2]int
	if err := unix.Pipe2(gate[:], unix.O_CLOEXEC); err != nil { // as numbers: nobody closes gate[1] but the exec
		return fmt.Errorf("start the shim: %w", err)
	}
	pid, err := startShim(task, gate[0])
	unix.Close(gate[0])
	if err != nil {
		unix.Close(gate[1])
		return fmt.Errorf("start the shim: %w", err)
	}
	if err := leaveUnit(task.Init, pid); err != nil {
		return fmt.Errorf("tell systemd of the shim: %w", err)
	}
	return nil
}

func startShim(task shimTask, gate int) (pid int, err error) {
	text, err := json.Marshal(task)
	if err != nil {
		return 0, err
	}
	memory, err := memfd("carte-task", text)
	if err != nil {
		return 0, err
	}
	defer memory.Close()
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	out, err := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NOCTTY, 0) // what a crash prints
	if err != nil {
		out = null
	} else {
		defer out.Close()
	}
	again, err := unix.FcntlInt(uintptr(gate), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	wait := os.NewFile(uintptr(again), "gate")
	defer wait.Close()
	files := []*os.File{null, out, out, memory, wait}
	for _, b := range task.Backs {
		dir, err := os.OpenFile(b.Upper, os.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return 0, fmt.Errorf("what is changed in %s: %w", b.Image, err)
		}
		defer dir.Close()
		files = append(files, dir)
	}
	p, err := os.StartProcess("/proc/self/exe", []string{ShimName}, &os.ProcAttr{
		Dir: "/", Env: []string{}, Files: files, Sys: &syscall.SysProcAttr{Setsid: true}})
	if err != nil {
		return 0, err
	}
	pid = p.Pid // Release forgets it
	return pid, p.Release()
}

// memfd is a file in memory alone; it is read from its beginning.
func memfd(name string, text []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err = f.Write(text); err == nil {
		_, err = f.Seek(0, 0)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// isSystemd says whether a path in the user's system leads to systemd, whichever of the two roots that is just now.
func isSystemd(init string) bool {
	for _, root := range []string{rootAt, "/"} {
		dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		fd, err := unix.Openat2(dir, init, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
		unix.Close(dir)
		if err != nil {
			continue
		}
		path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		unix.Close(fd)
		return err == nil && strings.HasSuffix(path, "/systemd")
	}
	return false
}
