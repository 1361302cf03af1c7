package store

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"carte/lab"
)

// bzImage is the beginning of a Linux kernel for x86-64, with noise behind it.
func bzImage(release string, bytes int, seed uint64) []byte {
	b := noise(bytes, seed)
	clear(b[:0x300])
	le := binary.LittleEndian
	le.PutUint16(b[0x1fe:], 0xaa55)
	copy(b[0x202:], "HdrS")
	le.PutUint16(b[0x206:], 0x20f)
	le.PutUint16(b[0x20e:], 0x300-0x200)
	le.PutUint16(b[0x236:], 1)
	copy(b[0x300:], release+" (builder@host) #1 SMP\x00")
	return b
}

func kernelTar(t testing.TB, release string, seed uint64, more ...member) []byte {
	return tarred(t, append([]member{{name: "boot/vmlinuz-" + release, text: string(bzImage(release, 1<<20, seed))}, {name: "usr/share/doc/readme", text: "no part of it"},
		{name: "lib/modules/" + release + "/kernel/net/e1000.ko", text: "module"}}, more...)...)
}

func TestKernelsAreImported(t *testing.T) {
	d := hold(t, t.TempDir())
	defer d.State.Close()
	ctx := t.Context()
	multiboot := noise(8192, 5)
	copy(multiboot[4096:], []byte{0x02, 0xb0, 0xad, 0x1b, 0, 0, 0, 0, 0xfe, 0x4f, 0x52, 0xe4})
	efi := slices.Clone(multiboot) // as Xen's: an EFI program that has the multiboot header of its source inside
	copy(efi, "MZ")
	copy(efi[0x3c:], []byte{0x80, 0, 0, 0})
	copy(efi[0x80:], "PE\x00\x00\x64\x86")
	copy(efi[0x80+24+68:], []byte{10, 0})
	elf := append([]byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x3e\x00"), noise(5000, 6)...)
	for _, c := range []struct {
		name   string
		bytes  []byte
		inside lab.Inside
		found  string
		warns  string // of one of the warnings; empty: there is none
	}{
		{"debian", kernelTar(t, "6.1.0-9-amd64", 1, member{name: "boot/config-6.1.0-9-amd64", text: "CONFIG_SERIAL_8250_CONSOLE=y\n"}, member{name: "boot/System.map-6.1.0-9-amd64", text: "x"}),
			lab.Inside{Arch: "amd64", Firmware: []lab.Firmware{lab.BIOS}, Starts: "linux", Kernels: []string{"6.1.0-9-amd64"}, Serial: true}, "1 modules of 6.1.0-9-amd64", "modules.dep is missing"},
		{"normal", tarred(t, member{name: "boot/kernel", text: string(bzImage("6.5", 1<<20, 2))}, member{name: "boot/initrd", text: "initrd"}, member{name: "usr/lib/modules/6.5/modules.dep", text: "x"}),
			lab.Inside{Arch: "amd64", Firmware: []lab.Firmware{lab.BIOS}, Starts: "linux", Kernels: []string{"6.5"}}, "initrd boot/initrd", ""},
		{"other", kernelTar(t, "6.6", 1, member{name: "boot/vmlinuz-6.10", text: string(bzImage("6.10", 1<<20, 3))}),
			lab.Inside{Arch: "amd64", Firmware: []lab.Firmware{lab.BIOS}, Starts: "linux", Kernels: []string{"6.10"}}, "Linux 6.10", "its modules are of 6.6"},
		{"alone", bzImage("7.0", 1<<20, 4), lab.Inside{Arch: "amd64", Firmware: []lab.Firmware{lab.BIOS}, Starts: "linux", Kernels: []string{"7.0"}}, "Linux 7.0", "no modules"},
		{"bare", kernelTar(t, "6.7", 5, member{name: "lib/modules/6.7/modules.builtin", text: "kernel/drivers/block/loop.ko\nkernel/fs/ext4/ext4.ko\n"}),
			lab.Inside{Arch: "amd64", Firmware: []lab.Firmware{lab.BIOS}, Starts: "linux", Kernels: []string{"6.7"}, Lacks: []string{"fuse"}}, "Linux 6.7", "modules.dep is missing"},
		{"full", kernelTar(t, "6.8", 6, member{name: "lib/modules/6.8/modules.builtin", text: "kernel/drivers/block/loop.ko\n"}, member{name: "lib/modules/6.8/kernel/fs/fuse/fuse.ko.xz", text: "x"}),
			lab.Inside{Arch: "amd64", Firmware: []lab.Firmware{lab.BIOS}, Starts: "linux", Kernels: []string{"6.8"}}, "Linux 6.8", "modules.dep is missing"},
		{"multi", multiboot, lab.Inside{Firmware: []lab.Firmware{lab.BIOS}, Starts: "multiboot"}, "multiboot", ""},
		{"efi", efi, lab.Inside{Arch: "amd64", Firmware: []lab.Firmware{lab.UEFI}, Starts: "efi"}, "EFI program", ""},
		{"elf", elf, lab.Inside{Arch: "amd64", Firmware: []lab.Firmware{lab.BIOS}, Starts: "elf"}, "ELF", ""},
		{"said", tarred(t, member{name: "odd.bin", text: "odd"}, member{name: "carte/image.toml", text: "[kernel]\nstarts = \"multiboot\"\ncmdline = \"root=/dev/sda1\"\n"}, member{name: "boot/kernel", text: "odd"}),
			lab.Inside{Starts: "multiboot"}, "started as multiboot", "names the root by its place"},
	} {
		got := imported(t, d, lab.Import{Name: c.name, Kind: "system", Form: lab.FormKernel}, c.bytes)
		v, in := got.Version, got.Version.Inside
		if in.Arch != c.inside.Arch || in.Starts != c.inside.Starts || in.Serial != c.inside.Serial || !slices.Equal(in.Kernels, c.inside.Kernels) || !slices.Equal(in.Firmware, c.inside.Firmware) || !slices.Equal(in.Lacks, c.inside.Lacks) || len(in.UUIDs) != 1 {
			t.Errorf("%s: inside is %+v", c.name, in)
		}
		if all := strings.Join(got.Warnings, "\n"); !strings.Contains(v.Found, c.found) || !strings.Contains(all, c.warns) || c.warns == "" && all != "" {
			t.Errorf("%s: found %q, warned %q", c.name, v.Found, all)
		}
		if c.name == "said" && v.Cmdline != "root=/dev/sda1" {
			t.Errorf("%s: its kernel line begins with %q", c.name, v.Cmdline)
		}
		if k, _, err := d.Kernel(ctx, v.Root, v.Bytes); err != nil || len(k) < 3 || !bytes.Contains(c.bytes, k[:min(len(k), 512)]) {
			t.Errorf("%s: a kernel of %d bytes, %v", c.name, len(k), err)
		}
		if again := imported(t, d, lab.Import{Name: c.name, Kind: "system", Form: lab.FormKernel}, c.bytes); !again.Same || again.New != 0 {
			t.Errorf("%s: the same again is %s, and took %d bytes", c.name, again.Version.Ref(), again.New)
		}
	}
	v, _ := d.version(ctx, lab.Ref{Name: "normal"})
	if k, initrd, err := d.Kernel(ctx, v.Root, v.Bytes); err != nil || string(initrd) != "initrd" || !bytes.Equal(k, bzImage("6.5", 1<<20, 2)) {
		t.Errorf("kernel of %d bytes, initrd %q, %v", len(k), initrd, err)
	}
	var names []string
	_ = systemOf(t, d, lab.Ref{Name: "debian"}).Walk(func(path string, mode uint32, _ int64) error {
		if mode&0o170000 == 0o100000 {
			names = append(names, path)
		}
		return nil
	})
	if want := []string{"/boot/kernel", "/lib/modules/6.1.0-9-amd64/kernel/net/e1000.ko"}; !slices.Equal(names, want) {
		t.Errorf("it holds %v, want %v", names, want)
	}
}

// A kernel image that came as a file system, such as another lab's export, is one too.
func TestAKernelImageIsExportedAndImported(t *testing.T) {
	d := hold(t, t.TempDir())
	defer d.State.Close()
	one := imported(t, d, lab.Import{Name: "k", Kind: "system", Form: lab.FormKernel}, kernelTar(t, "6.1", 1))
	var raw bytes.Buffer
	if err := d.Export(t.Context(), one.Version.Ref(), &raw, nil); err != nil {
		t.Fatal(err)
	}
	two := imported(t, d, lab.Import{Name: "copy", Kind: "system", Form: lab.FormKernel}, raw.Bytes())
	if in := two.Version.Inside; two.Version.Root != one.Version.Root || in.Starts != "linux" || !slices.Equal(in.Kernels, []string{"6.1"}) {
		t.Errorf("root %v, want %v; %+v", two.Version.Root, one.Version.Root, in)
	}
	if len(two.Warnings) == 0 || !strings.Contains(strings.Join(two.Warnings, " "), "and so has k@1") {
		t.Errorf("two file systems with one id: %v", two.Warnings)
	}
}

func TestWhatIsNoKernelIsRefused(t *testing.T) {
	d := hold(t, t.TempDir())
	defer d.State.Close()
	for want, b := range map[string][]byte{
		"there is no kernel":              tarred(t, member{name: "a", text: "a"}, member{name: "b", text: "b"}),
		"is nothing that can be started":  tarred(t, member{name: "boot/kernel", text: "text"}),
		"a kernel is one ext4":            noise(8192, 1),
		"cut off":                         kernelTar(t, "6.1", 1)[:1<<20],
		"kernel.starts is \"grub\"":       kernelTar(t, "6.1", 1, member{name: "carte/image.toml", text: "[kernel]\nstarts = \"grub\"\n"}),
		"image.toml is no file":           kernelTar(t, "6.1", 1, member{name: "carte/image.toml/x", text: "x"}),
		"leads out":                       tarred(t, member{name: "boot/../../kernel", text: "x"}),
		"which is no file that came befo": tarred(t, member{name: "boot/kernel", kind: tar.TypeLink, link: "vmlinuz"}),
	} {
		if _, err := d.Import(t.Context(), bytes.NewReader(b), lab.Import{Name: "k", Kind: "system", Form: lab.FormKernel}, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if s, _ := d.Watch(t.Context(), 0); len(s.Images) > 0 {
		t.Error("there is an image")
	}
}

// What a manifest says for a kernel is heard of a kernel alone, and that is said.
func TestKernelPartOfFiles(t *testing.T) {
	d := hold(t, t.TempDir())
	defer d.State.Close()
	b := tarred(t, member{name: "carte/image.toml", text: "[kernel]\ncmdline = \"quiet\"\n"}, member{name: "x", text: "x"})
	got := imported(t, d, lab.Import{Name: "mine", Kind: "user", Form: lab.FormFiles}, b)
	if got.Version.Cmdline != "" || !strings.Contains(strings.Join(got.Warnings, " "), "[kernel]") {
		t.Errorf("it says %q, and carte %q", got.Version.Cmdline, got.Warnings)
	}
}

// A kernel's file that nobody called a kernel is no disk, and what to type is said; a disk that has such bytes behind its boot sector is one.
func TestAKernelIsNoDisk(t *testing.T) {
	d := hold(t, t.TempDir())
	defer d.State.Close()
	multiboot := noise(8192, 5)
	copy(multiboot[4096:], []byte{0x02, 0xb0, 0xad, 0x1b, 0, 0, 0, 0, 0xfe, 0x4f, 0x52, 0xe4})
	for want, b := range map[string][]byte{
		"it is a Linux kernel, 7.0 (bzImage) and no disk":           bzImage("7.0", 1<<20, 4),
		"it is a program for a boot loader (multiboot) and no disk": multiboot,
	} {
		_, err := d.Import(t.Context(), bytes.NewReader(b), lab.Import{Name: "k", Kind: "system", Form: lab.FormDisk, File: "vmlinuz"}, nil)
		if !errors.Is(err, lab.ErrInvalid) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "carte image import vmlinuz --name k --form kernel") {
			t.Errorf("%v, want %q", err, want)
		}
	}
	multiboot[510], multiboot[511] = 0x55, 0xaa
	if got := imported(t, d, lab.Import{Name: "floppy", Kind: "system", Form: lab.FormDisk}, multiboot); got.Version.Number != 1 {
		t.Errorf("%+v", got.Version)
	}
}

// What an image says of itself counts, and the import's own words count more.
func TestAnImageDeclaresItsClauses(t *testing.T) {
	d := hold(t, t.TempDir())
	defer d.State.Close()
	manifest := member{name: "carte.toml", text: "place = \"/opt/x\"\n[clauses]\nautostart = \"required\"\nlazy = \"optional\"\n"}
	i := lab.Import{Name: "w", Kind: "project", Form: lab.FormFiles}
	one := imported(t, d, i, tarred(t, manifest, member{name: "run", text: "#!/bin/sh\n"})).Version
	if one.Place != "/opt/x" || len(one.Offers) != 2 || one.Offers[lab.Autostart] != lab.Required || !one.Inside.Run {
		t.Errorf("%+v", one)
	}
	i.Place, i.Offers = "/srv", lab.Terms{lab.Autostart: lab.Optional}
	two := imported(t, d, i, tarred(t, manifest, member{name: "run", text: "#!/bin/sh -e\n"})).Version
	if two.Place != "/srv" || len(two.Offers) != 2 || two.Offers[lab.Autostart] != lab.Optional || two.Offers[lab.Lazy] != lab.Optional {
		t.Errorf("%+v", two)
	}
	bad := tarred(t, member{name: "carte.toml", text: "[clauses]\nturbo = \"optional\"\n"})
	if _, err := d.Import(t.Context(), bytes.NewReader(bad), i, nil); !errors.Is(err, lab.ErrInvalid) || !strings.Contains(err.Error(), "turbo") {
		t.Errorf("a clause that nobody knows: %v", err)
	}
	tree := imported(t, d, lab.Import{Name: "t", Kind: "system", Form: lab.FormTree}, tarred(t, member{name: "sbin/init", text: "#!/bin/sh\n"}, member{name: "etc/kernel/cmdline", text: "quiet root=/dev/sda2\n"},
		member{name: "boot/vmlinuz-6.1", text: "x"}, member{name: "etc/inittab", text: "ttyS0::respawn:/sbin/getty\n"}))
	if in := tree.Version.Inside; in.Init != "/sbin/init" || !in.Serial || !slices.Equal(in.Kernels, []string{"6.1"}) || !strings.Contains(strings.Join(tree.Warnings, "\n"), "root=/dev/sda2") {
		t.Errorf("%+v, %q", in, tree.Warnings)
	}
}
