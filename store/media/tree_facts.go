package media

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"carte/lab"
	"carte/lab/ext4"
)

// TreeFacts is what the files of a system say about it. Texts come from the files and may hold anything: sanitise them before they reach a screen.
type TreeFacts struct {
	Name   string // "Debian GNU/Linux 12 (bookworm)"; empty: it does not say
	Init   string // what would be started: "/sbin/init"; empty: nothing
	System string // what that is: "systemd", "busybox", ...; empty: not known
	Kernel string // the newest in /boot, or /usr/lib/modules; empty: none
	Arch   string // of Init: "x86-64", ...; empty: no ELF file
	Files  int    // of every type

	Disks   []string // devices in /etc/fstab that are named by their place: "/dev/sda1"
	Console bool     // somebody can log in over the serial line, or can be made to by console= on the kernel's command line
}

// inits is what is started, the first that there is: the order of the agent's handover.
var inits = []string{"/sbin/init", "/init", "/etc/init", "/bin/init", "/bin/sh"}

const (
	maxFollow = 40 // links behind one another, as in the kernel
	maxText   = 1 << 20
)

// follow finds a file as the kernel would with this tree as its root; nil if there is none.
func (f *Files) follow(name string) *ext4.Node {
	parts := strings.Split(name, "/")
	trail := []*ext4.Node{f.root}
	for links := 0; len(parts) > 0; {
		part := parts[0]
		parts = parts[1:]
		here := trail[len(trail)-1]
		switch {
		case part == "" || part == ".":
			continue
		case part == "..":
			trail = trail[:max(1, len(trail)-1)]
			continue
		}
		n := here.Names[part]
		if n == nil {
			return nil
		}
		if n.Mode&ext4.TypeMask != ext4.TypeLink {
			trail = append(trail, n)
			continue
		}
		if links++; links > maxFollow {
			return nil
		}
		if strings.HasPrefix(n.Link, "/") {
			trail = trail[:1]
		}
		parts = append(strings.Split(n.Link, "/"), parts...)
	}
	return trail[len(trail)-1]
}

var errNoFile = errors.New("no such file")

// read returns the beginning of a file, at most n bytes.
func (f *Files) read(name string, n int64) ([]byte, error) {
	x := f.follow(name)
	if x == nil || x.Mode&ext4.TypeMask != ext4.TypeFile {
		return nil, fmt.Errorf("%s: %w", name, errNoFile)
	}
	return io.ReadAll(io.LimitReader(f.reader(x), n))
}

// Facts looks at the few files that tell what a system is.
func (f *Files) Facts() TreeFacts {
	t := TreeFacts{Files: len(f.nodes) - 1}
	for _, name := range []string{"etc/os-release", "usr/lib/os-release"} {
		if text, err := f.read(name, maxText); err == nil {
			t.Name = release(string(text))
			break
		}
	}
	for _, name := range inits {
		if n := f.follow(name); n != nil && n.Mode&ext4.TypeMask == ext4.TypeFile && n.Mode&0o111 != 0 {
			t.Init = name
			t.System, t.Arch = f.program(name)
			break
		}
	}
	t.Kernel = f.kernel()
	if text, err := f.read("etc/fstab", maxText); err == nil {
		t.Disks = disks(string(text))
	}
	t.Console = f.console(t.System)
	return t
}

// release reads os-release(5).
func release(text string) string {
	fields := map[string]string{}
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		fields[key] = strings.Trim(value, `"'`)
	}
	if s := fields["PRETTY_NAME"]; s != "" {
		return s
	}
	return strings.TrimSpace(fields["NAME"] + " " + fields["VERSION_ID"])
}

// program says what an init is, and for which processor.
func (f *Files) program(name string) (system, arch string) {
	n := f.follow(name)
	for _, x := range []struct{ file, system string }{
		{"lib/systemd/systemd", "systemd"}, {"usr/lib/systemd/systemd", "systemd"}, {"bin/busybox", "busybox"}, {"usr/bin/busybox", "busybox"},
		{"sbin/openrc-init", "OpenRC"}, {"sbin/runit-init", "runit"}, {"usr/bin/dinit", "dinit"}, {"sbin/dinit", "dinit"},
	} {
		if n == f.follow(x.file) {
			system = x.system
			break
		}
	}
	for range 4 { // a script is run by another program
		b, err := io.ReadAll(io.LimitReader(f.reader(n), 256))
		if err != nil {
			return system, ""
		}
		if arch = machine(b); arch != "" || !bytes.HasPrefix(b, []byte("#!")) {
			break
		}
		line, _, _ := strings.Cut(string(b[2:]), "\n")
		words := strings.Fields(line)
		if len(words) == 0 {
			break
		}
		if system == "" {
			system = "a script for " + words[0]
		}
		if n = f.follow(words[0]); n == nil || n.Mode&ext4.TypeMask != ext4.TypeFile {
			break
		}
	}
	if system == "" && f.follow("etc/inittab") != nil {
		system = "SysV init"
	}
	return system, arch
}

// machine reads for which processor an ELF file is.
func machine(b []byte) string {
	if len(b) < 20 || string(b[:4]) != elf.ELFMAG {
		return ""
	}
	lo, hi := b[18], b[19]
	if elf.Data(b[elf.EI_DATA]) == elf.ELFDATA2MSB {
		lo, hi = hi, lo
	}
	switch m := elf.Machine(uint16(lo) | uint16(hi)<<8); m {
	case elf.EM_X86_64:
		return "x86-64"
	case elf.EM_386:
		return "i386"
	case elf.EM_AARCH64:
		return "arm64"
	case elf.EM_ARM:
		return "arm"
	case elf.EM_RISCV:
		return "riscv"
	default:
		return strings.ToLower(strings.TrimPrefix(m.String(), "EM_"))
	}
}

// kernel finds the newest kernel by its name.
func (f *Files) kernel() string {
	var all []string
	for _, place := range []struct{ dir, begin string }{{"boot", "vmlinuz"}, {"boot", "bzImage"}, {"boot", "Image"}, {"", "vmlinuz"}} {
		if d := f.follow(place.dir); d != nil && d.IsDir() {
			for name := range d.Names {
				if strings.HasPrefix(name, place.begin) && !strings.HasSuffix(name, ".old") {
					all = append(all, name)
				}
			}
		}
		if len(all) > 0 {
			break
		}
	}
	if len(all) == 0 {
		return ""
	}
	return slices.MaxFunc(all, natural)
}

// natural compares with numbers as numbers.
func natural(a, b string) int {
	digit := func(c byte) bool { return c >= '0' && c <= '9' }
	for a != "" && b != "" {
		if !digit(a[0]) || !digit(b[0]) {
			if a[0] != b[0] {
				return int(a[0]) - int(b[0])
			}
			a, b = a[1:], b[1:]
			continue
		}
		i, k := 0, 0
		for i < len(a) && digit(a[i]) {
			i++
		}
		for k < len(b) && digit(b[k]) {
			k++
		}
		x, y := strings.TrimLeft(a[:i], "0"), strings.TrimLeft(b[:k], "0")
		if len(x) != len(y) {
			return len(x) - len(y)
		}
		if c := strings.Compare(x, y); c != 0 {
			return c
		}
		a, b = a[i:], b[k:]
	}
	return len(a) - len(b)
}

// disks finds the devices in fstab(5) that another disk, or another machine, will not have.
func disks(text string) (all []string) {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 || strings.HasPrefix(words[0], "#") {
			continue
		}
		for _, begin := range []string{"/dev/sd", "/dev/hd", "/dev/vd", "/dev/xvd", "/dev/nvme", "/dev/mmcblk"} {
			if strings.HasPrefix(words[0], begin) {
				all = append(all, words[0])
			}
		}
	}
	return all
}

// console says whether a login on the serial line is to be expected. systemd makes one by itself for every console= (systemd-getty-generator(8)).
func (f *Files) console(system string) bool {
	if system == "systemd" {
		for _, dir := range []string{"lib/systemd/system", "usr/lib/systemd/system", "etc/systemd/system"} {
			if f.follow(path.Join(dir, "serial-getty@.service")) != nil {
				return true
			}
		}
		return false
	}
	text, err := f.read("etc/inittab", maxText)
	if err != nil {
		return system != "OpenRC" // of others nobody knows; busybox asks on the console without one
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "#") && (strings.Contains(line, "ttyS") || strings.Contains(line, "console") || strings.HasPrefix(line, "::")) {
			return true
		}
	}
	return false
}

// String says it in one line, for people.
func (t TreeFacts) String() string {
	var s []string
	if t.Name != "" {
		s = append(s, t.Name)
	}
	switch {
	case t.Init == "":
		s = append(s, "no init")
	case t.System != "" && t.Init != "/bin/sh":
		s = append(s, fmt.Sprintf("init %s (%s)", t.Init, t.System))
	default:
		s = append(s, "init "+t.Init)
	}
	if t.Kernel != "" {
		s = append(s, "kernel "+t.Kernel)
	} else {
		s = append(s, "no kernel")
	}
	if t.Arch != "" {
		s = append(s, t.Arch)
	}
	return strings.Join(append(s, t.Count()), ", ")
}

// Count says how many files there are.
func (t TreeFacts) Count() string {
	if t.Files == 1 {
		return "1 file"
	}
	return fmt.Sprintf("%d files", t.Files)
}

// Warnings say what will keep it from being started, or from being seen. A tree needs no kernel: the stack has one, or carte's own serves.
func (t TreeFacts) Warnings() (all []string) {
	switch {
	case t.Init == "":
		all = append(all, "no init: none of "+strings.Join(inits, ", ")+" is a program, so no stack can start it")
	case t.Init == "/bin/sh":
		all = append(all, "no init but /bin/sh: a stack would start a shell, and nothing else; it ends when nobody types into it")
	}
	if t.Arch != "" && t.Arch != "x86-64" && t.Arch != "i386" {
		all = append(all, fmt.Sprintf("%s is for %s, and carte's machines are x86-64", t.Init, lab.Clean(t.Arch)))
	}
	if t.Init != "" && !t.Console {
		all = append(all, "no login on the serial line was found (serial-getty@.service, or ttyS0 or console in /etc/inittab): carte sees what the kernel says, and no login prompt")
	}
	if len(t.Disks) > 0 {
		all = append(all, fmt.Sprintf("/etc/fstab names disks by their place (%s), which another machine has elsewhere: UUID= or LABEL= is found everywhere; a stack's root needs no line at all", strings.Join(t.Disks, ", ")))
	}
	return all
}
