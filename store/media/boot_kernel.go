package media

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"carte/lab"
	"carte/lab/ext4"
)

// A BootKernel is what a merged system starts by, without carte.
type BootKernel struct {
	Path, Initrd string // in the system; Initrd is empty where it needs none
	Release      string // empty: the kernel does not say

	kernel, initrd *io.SectionReader
}

// diskDrivers are drivers of which a kernel without an initrd needs at least one built in, as modules.builtin names them.
var diskDrivers = []string{"virtio_blk.ko", "ahci.ko", "sd_mod.ko", "nvme.ko", "ata_piix.ko"}

// Kernel finds the kernel that is started: /boot/kernel and /boot/initrd of a kernel image where own is set, else the one that the system keeps for
// itself. lab.ErrRefused says why there is none that could find its root without carte.
func (m *Merged) Kernel(own bool) (k BootKernel, err error) {
	if own {
		k.Path, k.Initrd = "/boot/kernel", "/boot/initrd"
	} else if k.Path, k.Initrd = m.ownKernel(); k.Path == "" {
		return k, fmt.Errorf("it has no kernel: nothing in /boot, and no layer is a kernel; carte's own does not come along: %w", lab.ErrRefused)
	}
	if k.kernel = m.open(k.Path); k.kernel == nil {
		return k, fmt.Errorf("there is no kernel at %s: %w", k.Path, lab.ErrRefused)
	}
	head := make([]byte, 1<<16)
	n, err := k.kernel.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return k, err
	}
	if k.Release = linuxRelease(head[:n]); k.Release == "" {
		return k, fmt.Errorf("%s is no Linux kernel (bzImage) for x86; carte makes disks of no others: %w", k.Path, lab.ErrRefused)
	}
	if k.initrd = m.open(k.Initrd); k.initrd == nil {
		k.Initrd = ""
		return k, m.builtIn(k)
	}
	return k, nil
}

// ownKernel finds the kernel and initrd that Debian, Fedora, Arch or Alpine keep for themselves: the links to the newest, else the newest by name.
func (m *Merged) ownKernel() (kernel, initrd string) {
	for _, x := range [][2]string{{"/vmlinuz", "/initrd.img"}, {"/boot/vmlinuz", "/boot/initrd.img"}, {"/boot/vmlinuz-linux", "/boot/initramfs-linux.img"}, {"/boot/vmlinuz-lts", "/boot/initramfs-lts"}, {"/boot/vmlinuz-virt", "/boot/initramfs-virt"}} {
		if m.open(x[0]) != nil && m.open(x[1]) != nil {
			return x[0], x[1]
		}
	}
	boot := m.follow("/boot")
	if boot == nil {
		return "", ""
	}
	for _, name := range slices.Backward(slices.Sorted(maps.Keys(boot.Names))) {
		release, ok := strings.CutPrefix(name, "vmlinuz")
		if !ok {
			continue
		}
		kernel = "/boot/" + name
		for _, x := range []string{"initrd.img" + release, "initramfs" + release + ".img", "initrd" + release} {
			if m.open("/boot/"+x) != nil {
				return kernel, "/boot/" + x
			}
		}
	}
	return kernel, ""
}

// builtIn refuses a kernel without an initrd that cannot mount its root. Where nothing says what is built in, it is taken at its word.
func (m *Merged) builtIn(k BootKernel) error {
	text, ok := m.Text("/lib/modules/"+k.Release+"/modules.builtin", 1<<20)
	if !ok {
		return nil
	}
	has := func(name string) bool { return bytes.Contains(text, []byte("/"+name+"\n")) }
	var lacks []string
	if !has("ext4.ko") {
		lacks = append(lacks, "ext4")
	}
	if !slices.ContainsFunc(diskDrivers, has) {
		lacks = append(lacks, "every driver for disks")
	}
	if len(lacks) == 0 {
		return nil
	}
	return fmt.Errorf("the kernel %s has no initrd and %s only as modules: without carte, which loads them, it cannot find its root; import the kernel with an initrd, or one that has them built in: %w", k.Release, strings.Join(lacks, " and "), lab.ErrRefused)
}

// linuxRelease is the release that a bzImage for x86 says it has (kernel: Documentation/arch/x86/boot.rst); empty for anything else.
func linuxRelease(b []byte) string {
	if len(b) < 0x250 || string(b[0x202:0x206]) != "HdrS" {
		return ""
	}
	at := int(binary.LittleEndian.Uint16(b[0x20e:])) + 0x200
	if at >= len(b) {
		return ""
	}
	text, _, _ := bytes.Cut(b[at:min(len(b), at+200)], []byte{0})
	release, _, _ := strings.Cut(string(text), " ")
	return release
}

// real is the path of a file with all links followed, for a boot loader that would read a link as it is written.
func (m *Merged) real(name string) string {
	want := m.follow(name)
	found := name
	var look func(at string, dir *ext4.Node) bool
	look = func(at string, dir *ext4.Node) bool {
		for _, x := range slices.Sorted(maps.Keys(dir.Names)) {
			n := dir.Names[x]
			if n == want {
				found = path.Join(at, x)
				return true
			}
			if n.IsDir() && look(path.Join(at, x), n) {
				return true
			}
		}
		return false
	}
	if want == nil || m.root.Names["boot"] != nil && look("/boot", m.root.Names["boot"]) || look("/", m.root) {
		return found
	}
	return name
}
