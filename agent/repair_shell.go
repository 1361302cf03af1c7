package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"carte/lab"
	"carte/lab/layout"
)

// A repairShell is the little shell that a person repairs a machine with. There is no other program on the machine: its commands are
// its own.
type repairShell struct {
	*work
	one     sync.Mutex
	dir     string // where names without a slash before them begin
	machine func() error
}

// machineAt is where the machine image is seen.
const machineAt = "/carte/machine"

type repairCommand struct {
	name, use, help string
	run             func(*repairShell, context.Context, io.Writer, []string) error
}

// repairCommands is the table of what can be typed.
func repairCommands() []repairCommand {
	return []repairCommand{
		{"help", "help", "say what there is", (*repairShell).help},
		{"ls", "ls [FOLDER]", "list a folder; the machine image is at " + machineAt, (*repairShell).ls},
		{"cat", "cat FILE", "show a file", (*repairShell).cat},
		{"cd", "cd FOLDER", "begin names there", (*repairShell).cd},
		{"disks", "disks", "list the disks and what is on them", (*repairShell).disks},
		{"fsck", "fsck [DISK]", "look whether tables and file systems are sound; nothing is written", (*repairShell).fsck},
		{"boot-entries", "boot-entries [network-first | order XXXX,YYYY]", "show what UEFI starts, in which order, and change that", (*repairShell).bootEntries},
		{"reflash", "reflash base", "write the base layer again; images of users and changes stay", (*repairShell).reflashBase},
		{"reboot", "reboot", "end the repair", func(*repairShell, context.Context, io.Writer, []string) error { return errLeft }},
	}
}

func (sh *repairShell) help(_ context.Context, out io.Writer, _ []string) error {
	for _, c := range repairCommands() {
		fmt.Fprintf(out, "  %-46s %s\n", c.use, c.help)
	}
	return nil
}

// at is the file that a word means.
func (sh *repairShell) at(words []string) string {
	if len(words) == 0 {
		return sh.dir
	}
	if filepath.IsAbs(words[0]) {
		return filepath.Clean(words[0])
	}
	return filepath.Join(sh.dir, words[0])
}

func (sh *repairShell) ls(_ context.Context, out io.Writer, words []string) error {
	all, err := os.ReadDir(sh.at(words))
	if err != nil {
		return err
	}
	for _, e := range all {
		size := ""
		if st, err := e.Info(); err == nil && st.Mode().IsRegular() {
			size = lab.Bytes(st.Size())
		}
		name := lab.Clean(e.Name())
		if e.IsDir() {
			name += "/"
		}
		fmt.Fprintf(out, "%12s  %s\n", size, name)
	}
	return nil
}

// shownMost is how much of a file is shown: a serial line takes a minute for it.
const shownMost = 512 << 10

func (sh *repairShell) cat(_ context.Context, out io.Writer, words []string) error {
	if len(words) != 1 {
		return fmt.Errorf("cat takes one file: %w", lab.ErrInvalid)
	}
	f, err := os.Open(sh.at(words))
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, shownMost+1))
	if len(b) > shownMost {
		defer fmt.Fprintf(out, "... only the first %s are shown\n", lab.Bytes(shownMost))
		b = b[:shownMost]
	}
	for line := range strings.Lines(string(b)) {
		fmt.Fprintf(out, "%s\n", lab.Clean(strings.TrimRight(line, "\r\n")))
	}
	return err
}

func (sh *repairShell) cd(_ context.Context, _ io.Writer, words []string) error {
	st, err := os.Stat(sh.at(words))
	if err == nil && !st.IsDir() {
		err = fmt.Errorf("%s is no folder: %w", sh.at(words), lab.ErrInvalid)
	}
	if err == nil {
		sh.dir = sh.at(words)
	}
	return err
}

func (sh *repairShell) disks(_ context.Context, out io.Writer, _ []string) error {
	inv, err := sh.Inventory()
	if err != nil {
		return err
	}
	for _, d := range inv.Disks {
		mine := ""
		if sh.orders.Disk.Named() && d.Is(sh.orders.Disk) {
			mine = "  <- carte may write here"
		}
		fmt.Fprintf(out, "%-14s %10s  %s  %s  %s%s\n", d.Path, lab.Bytes(d.Bytes), d.DiskID, lab.Clean(d.Model), lab.Clean(d.Contents), mine)
	}
	if len(inv.Disks) == 0 {
		fmt.Fprintf(out, "no disk\n")
	}
	return nil
}

// fsck reads what describes a disk, and says what contradicts itself.
func (sh *repairShell) fsck(ctx context.Context, out io.Writer, words []string) error {
	inv, err := sh.Inventory()
	if err != nil {
		return err
	}
	var found bool
	for _, d := range inv.Disks {
		if len(words) > 0 && words[0] != d.Path && words[0] != d.Serial {
			continue
		}
		found = true
		if err := sh.check(ctx, out, d); err != nil {
			fmt.Fprintf(out, "%s: %s\n", d.Path, plainly(err))
		}
	}
	if !found {
		return fmt.Errorf("there is no such disk; disks lists them: %w", lab.ErrNotFound)
	}
	return nil
}

func (sh *repairShell) check(ctx context.Context, out io.Writer, id lab.Disk) error {
	if sh.ReadDisk == nil {
		return fmt.Errorf("this agent cannot read disks: %w", lab.ErrInvalid)
	}
	d, err := sh.ReadDisk(id.DiskID)
	if err != nil {
		return err
	}
	defer d.Close()
	m, err := layout.Read(ctx, d, d.Size())
	if err != nil {
		return fmt.Errorf("the partition table: %w", err)
	}
	table := m.Table.Kind
	if table == "" {
		table = "no partition table"
	}
	fmt.Fprintf(out, "%s: %s\n", id.Path, table)
	for _, x := range m.Systems {
		fmt.Fprintf(out, "  %-10s at byte %-14d %10s  %s\n", or(x.Type, "?"), x.Off, lab.Bytes(x.Bytes), soundness(x))
	}
	if t := sh.orders.Tail; !t.None() && id.Is(sh.orders.Disk) && isTail(d, t, sh.orders.Disk) {
		why, err := machineFault(d, t, sh.orders.Disk)
		if err != nil {
			return err
		}
		off, n := t.Machine()
		fmt.Fprintf(out, "  %-10s at byte %-14d %10s  %s\n", "machine", off, lab.Bytes(n), or(why, "sound"))
	}
	return nil
}

func soundness(x layout.System) string {
	switch {
	case x.Clean:
		return "sound, " + lab.Bytes(x.Used) + " used"
	case x.Kept != "":
		return x.Kept
	}
	return "not known"
}

// reflashBase is reflash, with the machine image out of the way meanwhile.
func (sh *repairShell) reflashBase(ctx context.Context, out io.Writer, words []string) error {
	if len(words) != 1 || words[0] != "base" {
		return fmt.Errorf("reflash base: the base is all that is written here: %w", lab.ErrInvalid)
	}
	if err := sh.unmount(); err != nil {
		return err
	}
	err := sh.reflash(ctx)
	if err == nil {
		fmt.Fprintf(out, "the base %s is proven; nothing else was written\n", sh.orders.Writes[0].Ref)
	}
	if e := sh.mount(); e != nil {
		fmt.Fprintf(out, "the machine image is not mounted: %v\n", e)
	}
	return err
}

// mount shows the machine image, which cannot be written to meanwhile, also not by the kernel.
func (sh *repairShell) mount() (err error) {
	t := sh.orders.Tail
	if t.None() || sh.Node == nil {
		return nil
	}
	node, err := sh.Node(sh.orders.Disk)
	if err != nil {
		return err
	}
	f, err := os.Open(node)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	off, n := t.Machine()
	loop, err := loopDevice(f, off, n)
	if err != nil {
		return err
	}
	m := &mounted{disk: f, loop: loop, dir: machineAt}
	if err = os.MkdirAll(machineAt, 0o755); err == nil {
		err = unix.Mount(loop.Name(), machineAt, "ext4", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "noload")
	}
	if err != nil {
		return errors.Join(fmt.Errorf("mount %s: %w", loop.Name(), err), m.detach())
	}
	sh.machine = func() error {
		if err := unix.Unmount(machineAt, 0); err != nil {
			return fmt.Errorf("unmount %s: %w", machineAt, err)
		}
		return errors.Join(m.detach(), f.Close())
	}
	return nil
}

func (sh *repairShell) unmount() error {
	if sh.machine == nil {
		return nil
	}
	back := sh.machine
	sh.machine = nil
	return back()
}
