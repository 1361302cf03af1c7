package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"carte/lab"
	"carte/lab/initrd"
	"carte/lab/layout"
)

// alone is the life of the agent on a disk that a stack was exported as, whose kernel has neither an initrd of its own nor all
// that its root needs built in: it loads modules, finds the root, and becomes its init. There is no server, and it asks for no
// network. It returns only with an error.
func (p *pid1) alone(ctx context.Context, name string) error {
	v := &voice{console: p.console, log: discard}
	v.say("%s starts from its disk, under Linux %s", name, release())
	all, err := os.ReadDir(initrd.Modules) // sorted by name
	if err != nil {
		return err
	}
	for _, e := range all {
		if err := loadModule(filepath.Join(initrd.Modules, e.Name())); err != nil {
			v.say("module %s: %v", e.Name(), err)
		}
	}
	r, err := rootOf(p.cmdline)
	if err != nil {
		return err
	}
	node, err := here.waitForRoot(ctx, r.spec, v)
	if err != nil {
		return err
	}
	if err := unix.Mount(node, rootAt, r.kind, r.flags, r.options); err != nil {
		return fmt.Errorf("the root %s on %s does not mount as %s (%w): %w", r.spec, node, r.kind, err, lab.ErrInvalid)
	}
	if r.init == "" {
		if r.init, err = findInit(rootAt); err != nil {
			return fmt.Errorf("the root %s on %s: %w", r.spec, node, err)
		}
	}
	if err := switchRoot(); err != nil {
		return err
	}
	if err := ownConsole(); err != nil {
		return err
	}
	// What the kernel did not know of its command line is in the agent's own arguments and environment.
	argv := append([]string{r.init}, os.Args[1:]...)
	env := append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, os.Environ()...)
	return fmt.Errorf("%s: %w", r.init, unix.Exec(r.init, argv, env))
}

// A root is what a kernel's command line says of it (kernel: Documentation/admin-guide/kernel-parameters.txt).
type root struct {
	spec    string // UUID=..., LABEL=... or /dev/...
	kind    string // of its file system
	flags   uintptr
	options string // of the mount
	init    string // empty: the first that there is
}

// rootOf reads a command line.
func rootOf(cmdline string) (root, error) {
	r := root{spec: argument(cmdline, "root"), kind: or(argument(cmdline, "rootfstype"), "ext4"), flags: unix.MS_RDONLY, options: argument(cmdline, "rootflags"), init: argument(cmdline, "init")}
	for _, w := range words(cmdline) {
		switch w {
		case "ro":
			r.flags = unix.MS_RDONLY
		case "rw":
			r.flags = 0
		}
	}
	for _, known := range []string{"UUID=", "LABEL=", "/dev/"} {
		if rest, ok := strings.CutPrefix(r.spec, known); ok && rest != "" {
			return r, nil
		}
	}
	return r, fmt.Errorf("the kernel's command line says root=%s, and this first root knows root=UUID=..., root=LABEL=... and root=/dev/...: %w", r.spec, lab.ErrInvalid)
}

// waitForRoot returns the device of a root, once the kernel has found it. It waits without an end, since a disk may be late, and
// says for what and how long.
func (h host) waitForRoot(ctx context.Context, spec string, v *voice) (node string, err error) {
	began, say := time.Now(), 2*time.Second
	for {
		found, seen, err := h.rootDevices(spec)
		if err != nil {
			return "", err
		}
		if len(found) > 1 {
			v.say("%s is on %s; %s becomes the root", spec, strings.Join(found, " and on "), found[0])
		}
		if len(found) > 0 {
			return found[0], nil
		}
		if waited := time.Since(began); waited >= say {
			v.say("waiting for the root %s for %d s; %s", spec, int(waited.Seconds()), or(strings.Join(seen, ", "), "the kernel sees no disk: it may lack a driver for this machine's"))
			say += 10 * time.Second
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return "", err
		}
	}
}

// rootDevices looks at all disks and partitions: found are the devices that a root may be on, seen all of them, for a person.
func (h host) rootDevices(spec string) (found, seen []string, err error) {
	entries, err := os.ReadDir(filepath.Join(h.sys, "class/block"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, nil // no block device yet
	}
	if err != nil {
		return nil, nil, err
	}
	key, want, _ := strings.Cut(spec, "=")
	for _, e := range entries {
		name := e.Name()
		if slices.ContainsFunc([]string{"loop", "ram", "zram", "fd"}, func(s string) bool { return strings.HasPrefix(name, s) }) {
			continue
		}
		size := h.bytesOf(name)
		if size == 0 {
			continue // a drive without a medium
		}
		node := filepath.Join(h.dev, name)
		what, err := identify(node, size)
		switch {
		case err != nil:
			seen = append(seen, fmt.Sprintf("%s (%v)", name, err))
			continue
		case what.Type == "":
			seen = append(seen, fmt.Sprintf("%s of %s", name, lab.Bytes(size)))
		default:
			seen = append(seen, fmt.Sprintf("%s of %s with %s %s", name, lab.Bytes(size), what.Type, lab.Clean(what.UUID)))
		}
		if node == spec || key == "UUID" && strings.EqualFold(what.UUID, want) || key == "LABEL" && what.Label == want {
			found = append(found, node)
		}
	}
	return found, seen, nil
}

// bytesOf is the size of a disk or partition; 0 where nobody knows.
func (h host) bytesOf(name string) (n int64) {
	if _, err := fmt.Sscan(h.line("class/block", name, "size"), &n); err != nil {
		return 0
	}
	return n * 512
}

// identify says what a device holds.
func identify(node string, size int64) (layout.System, error) {
	f, err := os.Open(node)
	if err != nil {
		return layout.System{}, err
	}
	defer f.Close()
	return layout.Identify(f, 0, size)
}
