package media

import (
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"carte/lab"
	"carte/lab/ext4"
	"carte/lab/text"
)

// manifestPlace is where an image says what it offers; of files, manifestTop will do, too.
const (
	manifestPlace = "carte/image.toml"
	manifestTop   = "carte.toml"
	maxManifest   = 64 << 10
)

// manifestNode finds the manifest of an image of that form.
func (f *Files) manifestNode(form lab.Form) *ext4.Node {
	places := []string{manifestPlace}
	if form != lab.FormTree {
		places = append(places, manifestTop)
	}
	for _, name := range places {
		if n := f.follow(name); n != nil {
			return n
		}
	}
	return nil
}

// Manifest reads what the files say of the image that they are; have is false where they say nothing. lab.ErrInvalid names the line that is wrong.
func (f *Files) Manifest(form lab.Form) (m text.Manifest, have bool, err error) {
	n := f.manifestNode(form)
	if n == nil {
		return m, false, nil
	}
	if n.Mode&ext4.TypeMask != ext4.TypeFile {
		return m, true, fmt.Errorf("%s is no file; an image says there, in TOML, what it offers: %w", n.Path, lab.ErrInvalid)
	}
	if n.Size > maxManifest {
		return m, true, fmt.Errorf("%s has %s, and %s are the most that a manifest has: %w", n.Path, lab.Bytes(n.Size), lab.Bytes(maxManifest), lab.ErrInvalid)
	}
	b, err := io.ReadAll(f.reader(n))
	if err == nil {
		m, err = text.ParseManifest(b)
	}
	if err != nil {
		return m, true, fmt.Errorf("%s: %w", n.Path, err)
	}
	return m, true, nil
}

// Inside is what the files of an image say for rules. Of a kernel, the files are those that Kernel leaves.
func (f *Files) Inside(form lab.Form) (in lab.Inside) {
	switch form {
	case lab.FormTree:
		facts := f.Facts()
		in.Arch, in.Init, in.Serial = goArch(facts.Arch), facts.Init, facts.Init != "" && facts.Console
		in.Kernels = f.releases()
	case lab.FormFiles:
		switch n := f.follow("run"); {
		case n == nil && f.root.Names["run"] != nil: // a link to what another layer has
		case n == nil:
			in.Idle = "there is no program called run at its top"
		case n.Mode&ext4.TypeMask != ext4.TypeFile:
			in.Idle = "run at its top is no file"
		case n.Mode&0o111 == 0:
			in.Idle = "the file run at its top is not executable (chmod +x run, and import it again)"
		default:
			_, arch := f.program("run")
			in.Run, in.Arch = true, goArch(arch)
		}
	case lab.FormKernel:
		head, err := f.read("boot/kernel", programHead)
		if err != nil {
			return in
		}
		p, _ := SniffProgram(head)
		in.Arch, in.Starts, in.Firmware = p.Arch, p.Starts, p.Firmware
		if m, _, err := f.Manifest(form); err == nil && m.Kernel.Starts != "" {
			in.Starts = m.Kernel.Starts
		}
		if d := f.follow("lib/modules"); d != nil && len(d.Names) == 1 && p.Release == "" {
			for name := range d.Names {
				p.Release = name
			}
		}
		if p.Release != "" && in.Starts == "linux" {
			in.Kernels, in.Lacks = []string{lab.Clean(p.Release)}, f.lacks()
		}
	}
	if in.Arch == "386" { // an amd64 machine runs it
		in.Arch = ""
	}
	return in
}

// releases lists the releases of the kernels in a tree, the newest first.
func (f *Files) releases() (all []string) {
	if d := f.follow("boot"); d != nil && d.IsDir() {
		for name := range d.Names {
			if release, ok := strings.CutPrefix(name, "vmlinuz-"); ok && !strings.HasSuffix(name, ".old") {
				all = append(all, lab.Clean(release))
			}
		}
	}
	for _, dir := range moduleDirs {
		if d := f.follow(dir); d != nil && d.IsDir() {
			for name := range d.Names {
				if f.follow(path.Join(dir, name, "vmlinuz")) != nil {
					all = append(all, lab.Clean(name))
				}
			}
		}
	}
	slices.SortFunc(all, func(a, b string) int { return natural(b, a) })
	return slices.Compact(all)
}

// bootLines are files in which a system says what its kernel is told.
var bootLines = []string{"boot/grub/grub.cfg", "boot/grub2/grub.cfg", "boot/grub/menu.lst", "boot/extlinux/extlinux.conf", "boot/syslinux/syslinux.cfg", "boot/cmdline.txt",
	"etc/default/grub", "etc/kernel/cmdline", "grub/grub.cfg", "extlinux/extlinux.conf", "syslinux/syslinux.cfg", "cmdline.txt"}

// Roots lists the disks that the system's own boot loader names by their place, as root=/dev/sda1.
func (f *Files) Roots() (all []string) {
	for _, name := range bootLines {
		if text, err := f.read(name, maxText); err == nil {
			all = append(all, PlacedRoots(string(text))...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// PlacedRoots finds root=/dev/sdX and the like in kernel command lines.
func PlacedRoots(line string) (all []string) {
	for word := range strings.FieldsSeq(line) {
		word = strings.Trim(word, `"'`)
		if i := strings.Index(word, "root=/dev/"); i >= 0 {
			for _, dev := range disks(strings.Trim(word[i+len("root="):], `"'`) + " /") {
				all = append(all, dev)
			}
		}
	}
	return all
}

// DiskInside looks into the ext4 file systems of a whole disk: the first that has an init says what the system is; kernels may lie in another. What cannot be
// read is not known.
func DiskInside(ctx context.Context, r io.ReaderAt, facts Facts) (in lab.Inside, roots []string, err error) {
	if facts.BIOS {
		in.Firmware = append(in.Firmware, lab.BIOS)
	}
	if facts.EFI {
		in.Firmware = append(in.Firmware, lab.UEFI)
	}
	if facts.Table == "none" && len(in.Firmware) == 0 {
		in.Idle = "no partition table, no boot loader"
	}
	for _, p := range facts.Parts {
		if !strings.HasPrefix(p.FS.Type, "ext") {
			continue
		}
		f, err := OpenFiles(ctx, io.NewSectionReader(r, p.Start, p.Size), p.Size)
		if ctx.Err() != nil {
			return in, nil, ctx.Err()
		}
		if err != nil {
			continue
		}
		if x := f.Inside(lab.FormTree); x.Init != "" && in.Init == "" {
			in.Arch, in.Init, in.Serial = x.Arch, x.Init, x.Serial
			in.Kernels = append(in.Kernels, x.Kernels...)
		}
		if f.follow("boot") == nil { // a partition for /boot
			for name := range f.root.Names {
				if release, ok := strings.CutPrefix(name, "vmlinuz-"); ok {
					in.Kernels = append(in.Kernels, lab.Clean(release))
				}
			}
		}
		roots = append(roots, f.Roots()...)
	}
	slices.SortFunc(in.Kernels, func(a, b string) int { return natural(b, a) })
	in.Kernels = slices.Compact(in.Kernels)
	slices.Sort(roots)
	return in, slices.Compact(roots), nil
}
