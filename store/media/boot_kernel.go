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
	Path, Initrd string   // in the system; Initrd is empty where it needs none
	Release      string   // empty: the kernel does not say
	Notes        []string // what was made so that it finds its root

	kernel, initrd *io.SectionReader
}

// KernelOptions say which kernel a system is started by, and what follows from none of its files.
type KernelOptions struct {
	Own  bool                   // a kernel image's, else the one that the system keeps for itself
	Name string                 // of the system, for the initrd that is made where there is none
	Init func() ([]byte, error) // the agent, for the same; an error says why there is none
}

// Kernel finds the kernel that is started, and makes it an initrd where it has none and needs one. lab.ErrRefused says why there is none that could find its
// root without carte.
func (m *Merged) Kernel(o KernelOptions) (k BootKernel, err error) {
	if o.Own {
		k.Path, k.Initrd = "/boot/kernel", "/boot/initrd"
	} else if k.Path, k.Initrd = m.ownKernel(); k.Path == "" {
		return k, fmt.Errorf("it has no kernel: nothing in /boot, and no layer is a kernel; carte's own does not come along; carte image import LINUX.deb --form kernel makes one, and carte stack edit puts it among the layers: %w", lab.ErrRefused)
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
		if err := m.initrd(&k, o); err != nil {
			return k, err
		}
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
