package agent

import (
	"os"
	"path/filepath"
	"slices"
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
