package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"carte/lab"
	"carte/lab/initrd"
	"carte/lab/modules"
)

// A second stage is the first root of the stack's own kernel, made on the machine: this very agent as its process 1, what it is
// to put together, and the modules that this machine's hardware needs. It has no right at the server: kexec gives it the agent's
// key, and a kernel that iPXE loads has a token on its command line.
type stage struct {
	Server  string     `json:"server"`
	Pin     string     `json:"pin"`
	MAC     lab.MAC    `json:"mac,omitempty"` // the card that the machine booted from
	Orders  lab.Orders `json:"orders"`
	Modules []string   `json:"modules,omitempty"` // below initrd.Modules, in the order in which they are loaded
}

// Where a second stage has its things.
const (
	stageFile = "/carte/stage.json"
	stageKey  = "/carte/key" // the agent's, with kexec only
)

// In a kernel image: the kernel, and where its modules are, a directory for each release.
const (
	kernelFile    = "boot/kernel"
	kernelModules = "lib/modules"
)

// kernelAt is where the kernel layer of some orders is mounted by compose.
func kernelAt(o lab.Orders) (string, error) {
	for i, w := range o.Writes {
		if w.Form == lab.FormKernel {
			return layerAt(i), nil
		}
	}
	return "", fmt.Errorf("boot %d starts with a kernel of its own, and has none: %w", o.Boot, lab.ErrInvalid)
}

// makeStage makes the second stage for a tree that is put together. words says what is in it, for a person.
func (h host) makeStage(s stage, kernel string) (archive *initrd.Archive, words string, err error) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return nil, "", fmt.Errorf("read the agent: %w", err)
	}
	d, err := h.find(s.Orders.Disk)
	if err != nil {
		return nil, "", err
	}
	dir, files, err := h.chooseModules(kernel, d.name)
	if err != nil {
		return nil, "", err
	}
	size, data := 0, make([][]byte, len(files))
	for i, file := range files {
		if data[i], err = os.ReadFile(filepath.Join(dir, file)); err != nil {
			return nil, "", fmt.Errorf("module %s: %w", file, err)
		}
		size += len(data[i])
	}
	w := initrd.New(self, size)
	for i, file := range files {
		s.Modules = append(s.Modules, w.Module(file, data[i]))
	}
	text, err := json.Marshal(s)
	if err != nil {
		return nil, "", err
	}
	w.File(strings.TrimPrefix(stageFile, "/"), 0o600, text)
	w.End()
	return w, fmt.Sprintf("a second stage of %s, with %d modules of %s (%s)", lab.Bytes(int64(w.Len())), len(files), or(filepath.Base(dir), "a kernel that has none"), lab.Bytes(int64(size))), nil
}

// chooseModules finds the modules that this machine needs in a mounted kernel image: their files below dir, in the order of
// loading. A kernel without any has them built in.
func (h host) chooseModules(kernel, disk string) (dir string, files []string, err error) {
	releases, err := os.ReadDir(filepath.Join(kernel, kernelModules))
	if errors.Is(err, os.ErrNotExist) || err == nil && len(releases) == 0 {
		return "", nil, nil
	}
	if err != nil {
		return "", nil, err
	}
	if len(releases) > 1 {
		return "", nil, fmt.Errorf("the kernel image has modules of %d releases (%s, %s), and a kernel is one: %w", len(releases), releases[0].Name(), releases[1].Name(), lab.ErrInvalid)
	}
	dir = filepath.Join(kernel, kernelModules, releases[0].Name())
	m, err := modules.Open(os.DirFS(dir))
	if err != nil {
		return "", nil, err
	}
	files, err = m.Wanted(always, h.modaliases(disk))
	return dir, files, err
}

func or(a, b string) string {
	if a == "" || a == "." {
		return b
	}
	return a
}

// addKey puts the agent's key behind a second stage, for a kernel that follows in this machine's memory.
func addKey(archive *initrd.Archive, key string) {
	archive.Dir("carte")
	archive.File(strings.TrimPrefix(stageKey, "/"), 0o600, []byte(key))
	archive.End()
}

// prepareKernel makes the second stage for the stack's own kernel, gives it to the server where the server may need it, and loads
// both where kexec starts them.
func (p *pid1) prepareKernel(ctx context.Context, r Ready) (undo func() error, err error) {
	undo = func() error { return nil }
	try := r.Orders
	try.Compose.Scratch = lab.Region{} // to see that all goes together; the second stage does it again, for good
	h, end, err := here.withLazy(ctx, lazyTask{Server: r.Server, Pin: r.Pin, Key: r.Key, Orders: r.Orders, Glance: true})
	if err != nil {
		return undo, err
	}
	defer func() { err = errors.Join(err, end()) }()
	tree, err := h.compose(ctx, try)
	if err != nil {
		return undo, err
	}
	defer func() { err = errors.Join(err, tree.undo()) }()
	at, err := kernelAt(r.Orders)
	if err != nil {
		return undo, err
	}
	kernel, err := os.Open(filepath.Join(at, kernelFile))
	if err != nil {
		return undo, fmt.Errorf("the kernel image has no /%s (%w): %w", kernelFile, err, lab.ErrInvalid)
	}
	defer kernel.Close()
	s := stage{Server: r.Server, Pin: r.Pin, MAC: lab.MAC(argument(p.cmdline, lab.ArgMAC)), Orders: r.Orders}
	archive, words, err := here.makeStage(s, at)
	if err != nil {
		return undo, err
	}
	r.Say("%s", words)
	if r.Start == lab.StartNetboot || r.Compose.Fallback {
		if err := r.Send(ctx, archive.Bytes()); err != nil {
			return undo, err
		}
	}
	if r.Start == lab.StartNetboot {
		return undo, nil
	}
	addKey(archive, r.Key)
	began := time.Now()
	err = loadKernel(kernel, archive.Bytes(), kernelLine(p.cmdline, r.Orders.Cmdline))
	if err == nil {
		r.Say("the kernel that is to follow was loaded in %.1f s", time.Since(began).Seconds())
		p.loaded = true
		return unloadKernel, nil
	}
	if e := r.NoKexec(ctx, err); e != nil || !r.Compose.Fallback {
		return undo, errors.Join(err, e)
	}
	r.Say("%v; the machine restarts, and its server has the kernel for it", err)
	return undo, nil
}

// kernelLine is the command line of a kernel that follows this one: its consoles, and the stack's own words.
func kernelLine(now, stack string) string {
	var all []string
	for _, w := range words(now) {
		if strings.HasPrefix(w, "console=") || strings.HasPrefix(w, "panic=") {
			all = append(all, w)
		}
	}
	return strings.TrimSpace(strings.Join(append(all, strings.TrimSpace(stack)), " "))
}

// loadKernel makes the kernel ready to replace this one, which reads both here and needs neither afterwards. There is always a first
// root: without one, a kernel that is started so under UEFI panics before its console is up.
func loadKernel(kernel *os.File, archive []byte, cmdline string) error {
	i, err := memfd("carte-stage", archive)
	if err != nil {
		return err
	}
	defer i.Close()
	if err := unix.KexecFileLoad(int(kernel.Fd()), int(i.Fd()), cmdline, 0); err != nil {
		return fmt.Errorf("this machine cannot replace its kernel (kexec): %w", err)
	}
	return nil
}

// unloadKernel takes loadKernel back.
func unloadKernel() error {
	const unload = 1 // KEXEC_FILE_UNLOAD
	if err := unix.KexecFileLoad(-1, -1, "", unload); err != nil {
		return fmt.Errorf("unload the kernel: %w", err)
	}
	return nil
}

// jump replaces this kernel by the one that is loaded. It returns only with an error.
func jump() error {
	unix.Sync()
	return fmt.Errorf("replace the kernel (kexec): %w", unix.Reboot(unix.LINUX_REBOOT_CMD_KEXEC))
}
