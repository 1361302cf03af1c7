package media

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"carte/lab"
	"carte/lab/ext4"
)

func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// A FAT32 with a small and a large cluster is sound to fsck.vfat, and mtools reads the file back.
func TestFAT32(t *testing.T) {
	for _, room := range []int64{1 << 20, 300 << 20} {
		want := noise(3<<20 + 17)
		v, err := fat32(7, map[string]*io.SectionReader{"EFI/BOOT/BOOTX64.EFI": io.NewSectionReader(bytes.NewReader(want), 0, int64(len(want)))}, room)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "esp")
		all, err := io.ReadAll(io.NewSectionReader(v, 0, v.size))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, all, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := exec.LookPath("/usr/sbin/fsck.vfat"); err != nil {
			t.Skip("fsck.vfat is not installed (dosfstools)")
		}
		if out, err := exec.Command("/usr/sbin/fsck.vfat", "-n", file).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		if out, err := exec.Command("mcopy", "-i", file, "::/EFI/BOOT/BOOTX64.EFI", "-").Output(); err != nil || !bytes.Equal(out, want) {
			t.Errorf("mtools reads %d bytes, want %d (%v)", len(out), len(want), err)
		}
	}
	if _, err := fat32(7, map[string]*io.SectionReader{"too long a name": io.NewSectionReader(bytes.NewReader(nil), 0, 0)}, 0); !errors.Is(err, lab.ErrInvalid) {
		t.Errorf("a long name: %v", err)
	}
}

// treeOf is a file system with some files; text that begins with -> is a link.
func treeOf(t *testing.T, files map[string]string) *ext4.Image {
	t.Helper()
	m := &Merged{root: &ext4.Node{Mode: ext4.TypeDir | 0o755, Names: map[string]*ext4.Node{}}, contents: &segments{}}
	for name, text := range files {
		if err := m.Put(name, 0o644, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if to, ok := strings.CutPrefix(text, "->"); ok {
			dir, _ := m.folder(filepath.Dir(name))
			dir.Names[filepath.Base(name)] = &ext4.Node{Mode: ext4.TypeLink | 0o777, Link: to}
		}
	}
	im, err := m.Build(TreeOptions{UUID: [16]byte{1}})
	if err != nil {
		t.Fatal(err)
	}
	return im
}

// linux is the head of a bzImage that says its release.
func linux(release string) string {
	b := make([]byte, 4096)
	copy(b[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(b[0x20e:], 0x400)
	copy(b[0x600:], release+" (builder) #1")
	return string(b)
}

// What lies over a system wins; a folder goes through a link; a place hides what was there; the same is built again.
func TestMerge(t *testing.T) {
	base := treeOf(t, map[string]string{"/etc/who": "base", "/usr/lib/x": "x", "/lib": "->usr/lib", "/home/ann/old": "old", "/vmlinuz": "->boot/vmlinuz-1", "/boot/vmlinuz-1": linux("1.0-base"), "/boot/initrd.img-1": "initrd", "/initrd.img": "->boot/initrd.img-1"})
	over := treeOf(t, map[string]string{"/etc/who": "over", "/lib/y": "y"})
	home := treeOf(t, map[string]string{"/new": "new"})
	merged := func() *Merged {
		m, err := Merge(t.Context(), base, base.Size)
		if err == nil {
			err = errors.Join(m.Over(t.Context(), over, over.Size, ""), m.Over(t.Context(), home, home.Size, "/home/ann"), m.Put("/etc/hostname", 0o644, []byte("name\n")))
		}
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	m := merged()
	for name, want := range map[string]string{"/etc/who": "over", "/usr/lib/y": "y", "/lib/x": "x", "/home/ann/new": "new", "/home/ann/old": "", "/etc/hostname": "name\n"} {
		if got, _ := m.Text(name, 1<<20); string(got) != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if k, err := m.Kernel(KernelOptions{}); err != nil || k.Release != "1.0-base" || m.real(k.Path) != "/boot/vmlinuz-1" || m.real(k.Initrd) != "/boot/initrd.img-1" {
		t.Errorf("the kernel is %+v, %v", k, err)
	}
	one, err := m.Build(TreeOptions{UUID: [16]byte{1}})
	if err != nil {
		t.Fatal(err)
	}
	two, err := merged().Build(TreeOptions{UUID: [16]byte{1}})
	if err != nil || one.Size != two.Size {
		t.Fatalf("%d and %d bytes, %v", one.Size, two.Size, err)
	}
	a, b := make([]byte, one.Size), make([]byte, one.Size)
	one.ReadAt(a, 0)
	if two.ReadAt(b, 0); !bytes.Equal(a, b) {
		t.Error("the same layers give other bytes")
	}
}

// A kernel that could not find its root without carte is refused, and the words say why. One that needs modules for it gets an initrd.
func TestKernelFindsItsRoot(t *testing.T) {
	const at = "/lib/modules/6.1/"
	modules := map[string]string{"/boot/kernel": linux("6.1"), at + "modules.builtin": "kernel/fs/fat/fat.ko\n", at + "kernel/virtio_blk.ko": string(ko("alias=x")), at + "kernel/ext4.ko": string(ko("softdep=pre: crc32c"))}
	partly := maps.Clone(modules)
	partly[at+"modules.builtin"] = "kernel/fs/ext4/ext4.ko\nkernel/drivers/nvme/host/nvme.ko\n"
	for _, c := range []struct {
		files  map[string]string
		agent  string
		words  string // of the error; empty: there is none
		initrd bool
	}{
		{map[string]string{"/etc/x": "x"}, "agent", "it has no kernel", false},
		{map[string]string{"/boot/kernel": "text"}, "agent", "no Linux kernel", false},
		{map[string]string{"/boot/kernel": linux("6.1"), at + "modules.builtin": "kernel/fs/fat/fat.ko\n"}, "agent", "ext4 and a driver for disks neither", false},
		{map[string]string{"/boot/kernel": linux("6.1"), at + "modules.builtin": "kernel/fs/ext4/ext4.ko\nkernel/drivers/block/virtio_blk.ko\n"}, "agent", "", false},
		{map[string]string{"/boot/kernel": linux("6.1")}, "agent", "", false},
		{modules, "", "no payload", false},
		{modules, "agent", "", true},
		{partly, "", "", false},
		{partly, "agent", "", true},
	} {
		im := treeOf(t, c.files)
		m, err := Merge(t.Context(), im, im.Size)
		if err != nil {
			t.Fatal(err)
		}
		k, err := m.Kernel(KernelOptions{Own: c.files["/boot/kernel"] != "", Name: "whole", Init: func() ([]byte, error) {
			if c.agent == "" {
				return nil, errors.New("no payload")
			}
			return []byte(c.agent), nil
		}})
		if c.words == "" && err != nil || c.words != "" && (!errors.Is(err, lab.ErrRefused) || !strings.Contains(err.Error(), c.words)) {
			t.Errorf("%q: %v", c.words, err)
		}
		if err == nil && (k.Initrd != "") != c.initrd {
			t.Errorf("%v: the initrd is %q", slices.Sorted(maps.Keys(c.files)), k.Initrd)
		}
		if !c.initrd {
			continue
		}
		got, _ := m.Text(k.Initrd, 1<<20)
		for _, part := range []string{"agent", "carte/modules/000-", "virtio_blk.ko", "whole\n"} {
			if !bytes.Contains(got, []byte(part)) {
				t.Errorf("the initrd lacks %q", part)
			}
		}
		if dep, _ := m.Text(at+"modules.dep", 1<<20); !strings.Contains(string(dep), "kernel/ext4.ko:\n") || len(k.Notes) != 2 {
			t.Errorf("modules.dep is %q; %q", dep, k.Notes)
		}
	}
}

// What is missing on this computer is named in one error.
func TestBootToolsMissing(t *testing.T) {
	grub, stub := grubFolders, stubFiles
	t.Cleanup(func() { grubFolders, stubFiles = grub, stub })
	grubFolders, stubFiles = nil, nil
	t.Setenv("PATH", t.TempDir())
	_, err := FindBootTools()
	if !errors.Is(err, lab.ErrRefused) || !strings.Contains(err.Error(), "apt-get install --no-install-recommends grub-common grub-pc-bin systemd-boot-efi") {
		t.Error(err)
	}
}
