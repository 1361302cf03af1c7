package media

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"carte/lab"
	"carte/lab/ext4"
	"carte/lab/initrd"
	"carte/lab/modules"
)

// diskDrivers are drivers by which a machine may reach its disk; without one of them, built in or as a module, none does.
var diskDrivers = []string{
	"virtio_blk", "virtio_scsi", "sd_mod", "ahci", "ata_piix", "ata_generic", "nvme", "vmd", "usb_storage", "uas", "mmc_block", "sdhci_pci", "sdhci_acpi",
	"hv_storvsc", "xen_blkfront", "vmw_pvscsi", "mptspi", "mptsas", "mpt3sas", "megaraid_sas", "hpsa", "aacraid", "smartpqi",
}

// rootModules are what else lies between a kernel and an ext4 on any disk: what ext4 asks for by name, and buses.
var rootModules = []string{"crc32c", "crc32c_generic", "ext4", "virtio_pci", "virtio_mmio", "xhci_pci", "ehci_pci", "hv_vmbus"}

// maxList is the most bytes that one of depmod's lists has.
const maxList = 64 << 20

// initrd makes what a kernel starts by that has neither an initrd nor its disks and ext4 built in: carte's agent, which loads the modules of all disks that
// a machine may have and goes over into the root. It lies in the system, for GRUB. Where all is built in, nothing is done; where nothing is known of what is
// built in, the kernel is taken at its word. lab.ErrRefused: there is no agent, or the modules are not there either.
func (m *Merged) initrd(k *BootKernel, o KernelOptions) error {
	at := "/lib/modules/" + k.Release
	dir := m.follow(at)
	if dir == nil || !dir.IsDir() || dir.Names["modules.builtin"] == nil {
		return nil
	}
	lists, err := m.moduleLists(at, dir, k)
	if err != nil {
		return err
	}
	set := modules.Parse(lists)
	isThere := func(name string) bool { return set.Built(name) || set.Has(name) }
	alone := set.Built("ext4") && slices.ContainsFunc(diskDrivers, set.Built)
	if alone && !slices.ContainsFunc(diskDrivers, set.Has) {
		return nil
	}
	var lacks []string
	if !isThere("ext4") {
		lacks = append(lacks, "ext4")
	}
	if !slices.ContainsFunc(diskDrivers, isThere) {
		lacks = append(lacks, "a driver for disks")
	}
	if len(lacks) > 0 {
		return fmt.Errorf("the kernel %s has no initrd, and %s neither built in nor as a module: it cannot find its root; import it with its modules, or with an initrd: %w", k.Release, strings.Join(lacks, " and "), lab.ErrRefused)
	}
	init, err := o.Init()
	if err != nil && alone {
		k.Notes = append(k.Notes, fmt.Sprintf("the kernel %s has no initrd, and none was made (%v): it starts from disks whose drivers are built in", k.Release, err))
		return nil
	}
	if err != nil {
		return fmt.Errorf("the kernel %s has no initrd, and needs modules to find its root; carte makes an initrd of its agent, which this carte has not: %w: %w", k.Release, err, lab.ErrRefused)
	}
	files, err := set.Wanted(slices.Concat(rootModules, diskDrivers), nil)
	if err != nil {
		return err
	}
	a := initrd.New(init, 0)
	for _, file := range files {
		b, err := m.module(path.Join(at, file))
		if err != nil {
			return err
		}
		name, _, _ := strings.Cut(file, ".ko")
		a.Module(name+".ko", b)
	}
	a.File(initrd.Alone[1:], 0o644, []byte(o.Name+"\n"))
	a.End()
	k.Initrd = bootMenu + "/initrd"
	if err := m.Put(k.Initrd, 0o600, a.Bytes()); err != nil {
		return err
	}
	k.initrd = m.open(k.Initrd)
	k.Notes = append(k.Notes, fmt.Sprintf("the kernel %s has no initrd: made one of %s, with %d modules for disks and carte's agent, which needs no server there", k.Release, lab.Bytes(int64(a.Len())), len(files)))
	return nil
}

// module reads a module of the system, unpacked: not every kernel unpacks those that it is handed.
func (m *Merged) module(name string) ([]byte, error) {
	r := m.open(name)
	if r == nil {
		return nil, fmt.Errorf("%s is in modules.dep and is not there: %w", name, lab.ErrInvalid)
	}
	b, err := io.ReadAll(r)
	if err == nil {
		b, err = unpackModule(name, b)
	}
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", name, err)
	}
	return b, nil
}

// moduleLists reads depmod's lists of the modules in dir, and makes them where they are not there: in a tree of an earlier carte, say.
func (m *Merged) moduleLists(at string, dir *ext4.Node, k *BootKernel) (map[string][]byte, error) {
	var made map[string][]byte
	if !listed(dir) {
		lists, of, odd, err := moduleLists(dir, func(n *ext4.Node) io.Reader { return m.content(n) })
		if err != nil {
			return nil, err
		}
		if made = lists; of > 0 {
			k.Notes = append(k.Notes, fmt.Sprintf("made modules.dep of %d modules of %s", of, k.Release))
		}
		for _, what := range odd {
			k.Notes = append(k.Notes, "left out of modules.dep: "+what)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(made)) {
		if err := m.Put(at+"/"+name, 0o644, made[name]); err != nil {
			return nil, err
		}
	}
	lists := map[string][]byte{}
	for _, name := range []string{"modules.builtin", "modules.dep", "modules.alias", "modules.softdep"} {
		text, ok := m.Text(at+"/"+name, maxList)
		if !ok && m.follow(at+"/"+name) != nil {
			return nil, errors.New(at + "/" + name + " cannot be read")
		}
		lists[name] = text
	}
	return lists, nil
}
