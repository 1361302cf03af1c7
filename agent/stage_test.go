package agent

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"carte/lab"
)

// write makes files below a directory.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// What a device or a name needs is found in depmod's lists, each module behind those that it needs, and once.
func TestModules(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"modules.builtin": "kernel/drivers/virtio/virtio.ko\n",
		"modules.dep": "kernel/fs/ext4/ext4.ko.xz: kernel/fs/jbd2/jbd2.ko.xz kernel/lib/crc16.ko.xz\nkernel/fs/jbd2/jbd2.ko.xz: kernel/lib/crc16.ko.xz\nkernel/lib/crc16.ko.xz:\n" +
			"kernel/crypto/crc32c_generic.ko.xz:\nkernel/drivers/net/r8169.ko.xz:\nkernel/drivers/net/phy/realtek.ko.xz:\nkernel/drivers/usb/usb-storage.ko.xz:\n",
		"modules.alias": "# Aliases extracted from modules themselves.\nalias crc32c crc32c_generic\nalias pci:v000010ECd00008168sv*sd*bc*sc*i* r8169\n" +
			"alias mdio:0000000000011100110010????????????? realtek\nalias usb:v*p*d*dc*dsc*dp*ic08isc06ip50in* usb_storage\n",
		"modules.softdep": "softdep ext4 pre: crc32c\nsoftdep r8169 pre: realtek\n",
	})
	m, err := readModules(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ names, aliases, want string }{
		{"ext4", "", "crc16 jbd2 crc32c_generic ext4"},
		{"crc32c virtio nothing", "", "crc32c_generic"},
		{"", "pci:v000010ECd00008168sv00001043sd00008505bc02sc00i00", "realtek r8169"},
		{"", "usb:v0781p5567d0126dc00dsc00dp00ic08isc06ip50in00 pci:v00008086d00001237", "usb_storage"},
		{"jbd2 ext4", "", "crc16 jbd2 crc32c_generic ext4"},
	} {
		var got []string
		files, err := m.wanted(strings.Fields(c.names), strings.Fields(c.aliases))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			got = append(got, moduleName(f))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s %s needs %v, want %s", c.names, c.aliases, got, c.want)
		}
	}
}

// Modules that are packed and that nobody has listed are refused with what helps.
func TestModulesPackedUnlisted(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"kernel/fs/ext4.ko.xz": "packed"})
	if _, err := readModules(dir); err == nil || !strings.Contains(err.Error(), "depmod") {
		t.Errorf("error %v", err)
	}
	broken := t.TempDir()
	write(t, broken, map[string]string{"kernel/drivers/block/loop.ko": "no ELF"})
	if _, err := readModules(broken); err == nil || !strings.Contains(err.Error(), "loop.ko") {
		t.Errorf("error %v", err)
	}
}

// Between a disk and the machine, and a card and the machine, every device is asked.
func TestModaliases(t *testing.T) {
	h := host{sys: t.TempDir()}
	write(t, h.sys, map[string]string{
		"devices/pci0000:00/modalias":                                  "pci-bridge\n",
		"devices/pci0000:00/0000:00:04.0/modalias":                     "pci:virtio\n",
		"devices/pci0000:00/0000:00:04.0/virtio1/modalias":             "virtio:block\n",
		"devices/pci0000:00/0000:00:04.0/virtio1/block/vda/size":       "1\n",
		"devices/pci0000:00/0000:00:05.0/modalias":                     "pci:net\n",
		"devices/pci0000:00/0000:00:05.0/net/eth0/phydev/phy_id":       "0x001cc916\n",
		"devices/pci0000:00/0000:00:06.0/modalias":                     "pci:sound\n",
		"devices/pci0000:00/0000:00:04.0/virtio2/block/vdb/size":       "1\n",
		"devices/pci0000:00/0000:00:04.0/virtio2/modalias":             "virtio:other\n",
		"devices/pci0000:00/0000:00:05.0/net/eth0/statistics/rx_bytes": "1\n",
	})
	for link, to := range map[string]string{
		"block/vda": "devices/pci0000:00/0000:00:04.0/virtio1/block/vda", "class/net/eth0": "devices/pci0000:00/0000:00:05.0/net/eth0",
		"devices/pci0000:00/0000:00:05.0/net/eth0/device": "devices/pci0000:00/0000:00:05.0",
	} {
		link = filepath.Join(h.sys, link)
		if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(h.sys, to), link); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"mdio:00000000000111001100100100010110", "pci-bridge", "pci:net", "pci:virtio", "virtio:block"}
	if got := h.modaliases("vda"); !slices.Equal(got, want) {
		t.Errorf("modaliases %q, want %q", got, want)
	}
}

// Another program unpacks what the agent packs, and what is put behind it.
func TestCpio(t *testing.T) {
	program, err := exec.LookPath("cpio")
	if err != nil {
		program, err = exec.LookPath("busybox")
	}
	if err != nil {
		t.Skip("there is neither cpio nor busybox to unpack with")
	}
	var w cpio
	w.dir("carte")
	w.file("carte/odd", 0o644, []byte("12345"))
	w.file("carte/empty", 0o600, nil)
	w.end()
	archive := withKey(w.Bytes(), "secret")
	unpack := func(b []byte) string {
		dir := t.TempDir()
		cmd := exec.Command(program, "-idm", "--no-absolute-filenames")
		if filepath.Base(program) == "busybox" {
			cmd = exec.Command(program, "cpio", "-idm")
		}
		cmd.Dir, cmd.Stdin = dir, bytes.NewReader(b)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		var text []byte
		for _, name := range []string{"carte/odd", "carte/empty", "carte/key"} {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				b = []byte("-")
			}
			text = append(append(text, b...), '|')
		}
		return string(text)
	}
	if got := unpack(archive); got != "12345||-|" {
		t.Errorf("unpacked %q", got)
	}
	if got := unpack(archive[w.Len():]); got != "-|-|secret|" {
		t.Errorf("behind it is %q", got)
	}
}

func TestKernelLine(t *testing.T) {
	got := kernelLine("initrd=initrd console=tty0 console=ttyS0,115200 panic=10 carte.token=1.1.secret", ` carte.test="a  b" console=ttyS1 `)
	if want := `console=tty0 console=ttyS0,115200 panic=10 carte.test="a  b" console=ttyS1`; got != want {
		t.Errorf("command line %q, want %q", got, want)
	}
}

// Files are written where the system will see them, whatever links there are, and never outside of it.
func TestWriteTexts(t *testing.T) {
	outside := t.TempDir()
	root := t.TempDir()
	write(t, root, map[string]string{"usr/lib/old": "old", "etc/hostname": "was\n"})
	for link, to := range map[string]string{"lib": "usr/lib", "away": outside, "up": "../../../../..", "etc/dangling": "/nowhere"} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeTexts(root, []lab.TextFile{
		{Path: "/etc/hostname", Text: "vm\n"}, {Path: "/root/.ssh/key", Mode: 0o600, Text: "secret"}, {Path: "/lib/x/y", Text: "xy"}, {Path: "/up/top", Text: "top"},
	}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"etc/hostname": "vm\n", "root/.ssh/key": "secret", "usr/lib/x/y": "xy", "top": "top"} {
		if b, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(b) != want {
			t.Errorf("%s is %q, %v", name, b, err)
		}
	}
	if st, err := os.Stat(filepath.Join(root, "root/.ssh/key")); err != nil || st.Mode() != 0o600 {
		t.Errorf("the key is %v, %v", st, err)
	}
	for _, bad := range []string{"/away/x", "/etc/dangling", "/etc/hostname/x", "/usr"} {
		if err := writeTexts(root, []lab.TextFile{{Path: bad, Text: "x"}}); err == nil {
			t.Errorf("%s was written", bad)
		}
	}
	if all, err := os.ReadDir(outside); err != nil || len(all) > 0 {
		t.Errorf("outside is %v, %v", all, err)
	}
}
