package media

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"carte/lab"
	"carte/lab/ext4"
)

// KernelFacts is what a kernel image was made of. Texts come from the files and may hold anything: sanitise them before they reach a screen.
type KernelFacts struct {
	Program
	Bytes    int64    // of the kernel
	From     string   // its name before
	Others   []string // kernels that were left out
	Initrd   string   // its name before; empty: none
	Modules  int      // files of modules
	Of       string   // the release that the modules are of; empty: none
	Dep      bool     // there is a modules.dep
	Made     int      // of how many modules it was made here, with depmod's other lists; 0: it came along, or could not be made
	Unlisted []string // modules that are not in what was made, and why
	Config   bool     // its configuration was there
	Serial   bool     // and says that it can have a serial console
}

// kernelPlaces are where people and packages put kernels, the likely ones first. The last part is the beginning of a name.
var kernelPlaces = []struct{ dir, begin string }{
	{"boot", "kernel"}, {"boot", "vmlinuz"}, {"boot", "bzImage"}, {"boot", "Image"}, {"", "vmlinuz"}, {"", "bzImage"}, {"", "Image"}, {"", "kernel"},
	{"arch/x86/boot", "bzImage"}, {"arch/arm64/boot", "Image"}, {"boot", "vmlinux"}, {"", "vmlinux"},
}

// initrdPlaces are the same of initial RAM disks.
var initrdPlaces = []struct{ dir, begin string }{
	{"boot", "initrd"}, {"boot", "initramfs"}, {"", "initrd"}, {"", "initramfs"},
}

// moduleDirs are where modules are, by release.
var moduleDirs = []string{"lib/modules", "usr/lib/modules"}

// Kernel turns the files into those of a kernel image: /boot/kernel, /boot/initrd, /lib/modules/RELEASE, and the manifest. They are found where kernel
// builds and packages put them; a file that is the only one need not have any of their names. Everything else is left out. starts is what the manifest
// says of how it is started; empty: what its bytes say. lab.ErrInvalid: there is no kernel, or none that anything can start.
func (f *Files) Kernel(starts string) (KernelFacts, error) {
	var k KernelFacts
	kernel, err := f.findKernel(&k)
	if err != nil {
		return k, err
	}
	head, err := io.ReadAll(io.LimitReader(f.reader(kernel), programHead))
	if err != nil {
		return k, err
	}
	p, ok := SniffProgram(head)
	if !ok && starts == "" {
		return k, fmt.Errorf("%s is nothing that can be started: no Linux kernel (bzImage), multiboot, ELF or EFI program; where it is one nevertheless, the manifest says so: [kernel] starts = \"linux\": %w", k.From, lab.ErrInvalid)
	}
	k.Program, k.Bytes = p, kernel.Size
	k.Starts = cmp.Or(starts, p.Starts)
	if k.Release == "" && k.Starts == "linux" {
		_, k.Release, _ = strings.Cut(path.Base(k.From), "-")
	}
	modules := f.modules(&k)
	if modules != nil {
		if err := f.makeLists(&k, modules); err != nil {
			return k, fmt.Errorf("make modules.dep of %s: %w", k.Of, err)
		}
	}
	initrd := f.findInitrd(&k)
	f.config(&k)

	root := &ext4.Node{Mode: ext4.TypeDir | 0o755, Time: f.root.Time, Names: map[string]*ext4.Node{}}
	if n := f.manifestNode(lab.FormKernel); n != nil {
		hang(root, manifestPlace, n)
	}
	hang(root, "boot/kernel", kernel)
	if initrd != nil {
		hang(root, "boot/initrd", initrd)
	}
	if modules != nil {
		hang(root, path.Join("lib/modules", k.Of), modules)
	}
	f.root, f.nodes = root, nil
	f.renumber(root, "", map[*ext4.Node]bool{})
	return k, nil
}

// hang puts a node, or a copy of it where it is a file, at a path.
func hang(dir *ext4.Node, at string, n *ext4.Node) {
	parts := strings.Split(at, "/")
	for _, part := range parts[:len(parts)-1] {
		next := dir.Names[part]
		if next == nil {
			next = &ext4.Node{Mode: ext4.TypeDir | 0o755, Time: n.Time, Names: map[string]*ext4.Node{}}
			dir.Names[part] = next
		}
		dir = next
	}
	if !n.IsDir() {
		c := *n
		c.Mode = ext4.TypeFile | 0o644
		n = &c
	}
	dir.Names[parts[len(parts)-1]] = n
}

// renumber lists a node, and those below it by their names.
func (f *Files) renumber(n *ext4.Node, at string, listed map[*ext4.Node]bool) {
	if listed[n] {
		return // another name of the same file
	}
	listed[n] = true
	n.Path = at
	f.nodes = append(f.nodes, n)
	for _, name := range slices.Sorted(maps.Keys(n.Names)) {
		f.renumber(n.Names[name], path.Join(at, name), listed)
	}
}

// findKernel finds the one kernel: the newest at the likeliest place that has any.
func (f *Files) findKernel(k *KernelFacts) (*ext4.Node, error) {
	places := slices.Clone(kernelPlaces)
	for _, dir := range moduleDirs {
		if d := f.follow(dir); d != nil && d.IsDir() {
			for _, release := range slices.Sorted(maps.Keys(d.Names)) {
				places = append(places, struct{ dir, begin string }{path.Join(dir, release), "vmlinuz"})
			}
		}
	}
	for _, x := range places {
		if names := f.likely(x.dir, x.begin); len(names) > 0 {
			k.From, k.Others = path.Join(x.dir, names[0]), names[1:]
			return f.follow(k.From), nil
		}
	}
	var only []*ext4.Node
	for _, n := range f.nodes {
		if n.Mode&ext4.TypeMask == ext4.TypeFile {
			only = append(only, n)
		}
	}
	if len(only) == 1 {
		k.From = only[0].Path
		return only[0], nil
	}
	return nil, fmt.Errorf("there is no kernel among the %d files: carte looks for boot/kernel, boot/vmlinuz-RELEASE, vmlinuz and bzImage, or takes a file that comes alone: %w", len(only), lab.ErrInvalid)
}

// likely lists the files of a directory whose names begin so, the newest first.
func (f *Files) likely(dir, begin string) (names []string) {
	d := f.follow(dir)
	if d == nil || !d.IsDir() {
		return nil
	}
	for name := range d.Names {
		n := f.follow(path.Join(dir, name))
		if strings.HasPrefix(name, begin) && !strings.HasSuffix(name, ".old") && n != nil && n.Mode&ext4.TypeMask == ext4.TypeFile {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int { return natural(b, a) })
	if i := slices.Index(names, begin); i > 0 { // the plain name first
		names = slices.Insert(slices.Delete(names, i, i+1), 0, begin)
	}
	return names
}

// findInitrd finds the initial RAM disk of the kernel's release, or the only one there is.
func (f *Files) findInitrd(k *KernelFacts) *ext4.Node {
	for _, x := range initrdPlaces {
		names := f.likely(x.dir, x.begin)
		i := slices.IndexFunc(names, func(s string) bool { return k.Release != "" && strings.Contains(s, k.Release) })
		if i < 0 && len(names) == 1 {
			i = 0
		}
		if i >= 0 {
			k.Initrd = path.Join(x.dir, names[i])
			return f.follow(k.Initrd)
		}
	}
	return nil
}

// modules finds the modules of the kernel's release, or the only ones there are, and takes out what leads to the sources they were built from.
func (f *Files) modules(k *KernelFacts) *ext4.Node {
	for _, dir := range moduleDirs {
		d := f.follow(dir)
		if d == nil || !d.IsDir() {
			continue
		}
		k.Of = k.Release
		if d.Names[k.Of] == nil && len(d.Names) == 1 {
			k.Of = slices.Collect(maps.Keys(d.Names))[0]
		}
		m := f.follow(path.Join(dir, k.Of))
		if k.Of == "" || m == nil || !m.IsDir() {
			k.Of = ""
			continue
		}
		delete(m.Names, "build")
		delete(m.Names, "source")
		k.Dep = m.Names["modules.dep"] != nil
		k.Modules = countModules(m)
		if k.Release == "" {
			k.Release = k.Of
		}
		return m
	}
	return nil
}

func countModules(n *ext4.Node) (all int) {
	for name, child := range n.Names {
		if child.IsDir() {
			all += countModules(child)
		} else if isModule(name) {
			all++
		}
	}
	return all
}

// config looks for the kernel's configuration, where a package brought it.
func (f *Files) config(k *KernelFacts) {
	for _, name := range []string{"boot/config-" + k.Release, "boot/config", ".config", path.Join("lib/modules", k.Of, "config")} {
		if b, err := f.read(name, maxText); err == nil {
			k.Config = true
			k.Serial = bytes.Contains(b, []byte("CONFIG_SERIAL_8250_CONSOLE=y")) || bytes.Contains(b, []byte("CONFIG_SERIAL_AMBA_PL011_CONSOLE=y"))
			return
		}
	}
}

// String says it in one line, for people.
func (k KernelFacts) String() string {
	s := []string{k.Format}
	if k.Starts == "linux" {
		s = []string{strings.TrimSpace("Linux " + k.Release), k.Format}
	}
	if s = slices.DeleteFunc(s, func(x string) bool { return x == "" }); k.Format == "" {
		s = append(s, "started as "+k.Starts)
	}
	if k.Arch != "" {
		s = append(s, k.Arch)
	}
	s = append(s, fmt.Sprintf("%s of %s", k.From, lab.Bytes(k.Bytes)))
	if k.Initrd != "" {
		s = append(s, "initrd "+k.Initrd)
	}
	if k.Of != "" {
		s = append(s, fmt.Sprintf("%d modules of %s", k.Modules, k.Of))
	}
	if k.Made > 0 {
		s = append(s, fmt.Sprintf("made modules.dep of %d modules", k.Made))
	}
	return strings.Join(s, ", ")
}

func andMore(n int) string {
	if n <= 0 {
		return ""
	}
	return fmt.Sprintf(", and %d more", n)
}

// Warnings say what will keep it from being started, or from being seen.
func (k KernelFacts) Warnings() (all []string) {
	if len(k.Others) > 0 {
		all = append(all, fmt.Sprintf("there are more kernels; %s is taken, and %s left out", k.From, strings.Join(k.Others, ", ")))
	}
	switch {
	case k.Starts != "linux":
	case k.Of == "":
		all = append(all, "no modules: it can do what is built into it, and nothing else")
	case k.Of != k.Release:
		all = append(all, fmt.Sprintf("the kernel is %s and its modules are of %s: it will not load them", k.Release, k.Of))
	}
	switch bad := len(k.Unlisted); {
	case bad > 0 && k.Made > 0:
		all = append(all, fmt.Sprintf("left out of modules.dep, so that modprobe does not know it: %s%s", k.Unlisted[0], andMore(bad-1)))
	case bad > 0 && !k.Dep:
		all = append(all, fmt.Sprintf("modules.dep is missing and could not be made; modprobe in the running system will find nothing: %s%s", k.Unlisted[0], andMore(bad-1)))
	}
	if k.Config && !k.Serial {
		all = append(all, "no serial console is built in (CONFIG_SERIAL_8250_CONSOLE): carte will not see what this kernel says")
	}
	if k.Format == "multiboot 2" {
		all = append(all, "it is multiboot 2, and iPXE starts multiboot 1: it needs a boot loader of its own, or a multiboot 1 header")
	}
	if k.Arch != "" && k.Arch != "amd64" && k.Arch != "386" {
		all = append(all, fmt.Sprintf("it is for %s, and carte's machines are x86-64", k.Arch))
	}
	return all
}
