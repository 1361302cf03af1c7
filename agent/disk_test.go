package agent

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"carte/lab"
)

// fake makes a machine of small files: path and what is in it, links with "-> ".
func fake(t *testing.T, files map[string]string) host {
	root := t.TempDir()
	for path, text := range files {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if to, link := strings.CutPrefix(text, "-> "); link {
			err = os.Symlink(to, path)
		} else {
			err = os.WriteFile(path, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return host{sys: root + "/sys", proc: root + "/proc", dev: root + "/dev"}
}

var desk = map[string]string{
	"sys/block/vda/queue/rotational":             "1\n", // as virtio says of whatever lies behind it
	"sys/block/vda/size":                         "8388608\n",
	"sys/block/vda/dev":                          "254:0\n",
	"sys/block/vda/serial":                       "carte-0102",
	"sys/block/vda/vda1/start":                   "2048\n",
	"sys/block/vda/vda1/size":                    "8192\n",
	"sys/block/nvme0n1/size":                     "2000\n",
	"sys/block/nvme0n1/wwid":                     "eui.0025\n",
	"sys/block/nvme0n1/queue/logical_block_size": "4096\n",
	"sys/block/nvme0n1/device/serial":            "S4EV  \n",
	"sys/block/nvme0n1/device/model":             "Samsung SSD 970          \n",
	"sys/block/sda/size":                         "2000\n",
	"sys/block/sda/ro":                           "1\n",
	"sys/block/sda/removable":                    "1\n",
	"sys/block/sda/queue/rotational":             "1\n",
	"sys/block/sda/device/vpd_pg80":              "\x00\x80\x00\x08  WD-1 \x00",
	"sys/block/sda/device/wwid":                  "t10.ATA  WD\n",
	"sys/block/sdb/size":                         "0\n",
	"sys/block/nvme0c0n1/size":                   "2000\n",
	"sys/block/nvme0c0n1/hidden":                 "1\n",
	"sys/block/loop0/size":                       "2000\n",
	"sys/block/sr0/size":                         "2000\n",
	"sys/block/zram0/size":                       "2000\n",
	"dev/vda":                                    "\x00\x00",
	"dev/nvme0n1":                                "XFSB",
	"sys/class/dmi/id/sys_vendor":                "Dell Inc.\n",
	"sys/class/dmi/id/product_uuid":              "4C4C4544-0042\n",
	"sys/firmware/efi/x":                         "",
	"sys/devices/system/node/node0/x":            "",
	"sys/devices/system/node/node1/x":            "",
	"sys/class/net/lo/address":                   "00:00:00:00:00:00\n",
	"sys/class/net/eth0/address":                 "52:54:00:00:00:01\n",
	"sys/class/net/eth0/carrier":                 "1\n",
	"sys/class/net/eth0/speed":                   "1000\n",
	"sys/class/net/eth0/device/driver":           "-> ../../../drivers/e1000e",
	"sys/class/net/eth1/address":                 "52:54:00:00:00:02\n",
	"sys/class/net/eth1/speed":                   "-1\n",
	"sys/class/net/eth1/device/x":                "",
	"proc/meminfo":                               "MemTotal:        1000000 kB\nMemFree: 1 kB\n",
	"proc/cpuinfo":                               "processor\t: 0\nmodel name\t: Some  CPU\nphysical id\t: 0\ncore id\t\t: 0\n\nprocessor\t: 1\nmodel name\t: Some  CPU\nphysical id\t: 0\ncore id\t\t: 0\n\nprocessor\t: 2\nmodel name\t: Some  CPU\nphysical id\t: 0\ncore id\t\t: 1\n\n",
}

func TestInventory(t *testing.T) {
	inv, err := fake(t, desk).inventory()
	if err != nil {
		t.Fatal(err)
	}
	disks := []lab.Disk{
		{DiskID: lab.DiskID{Serial: "S4EV", WWN: "eui.0025", Bytes: 2000 * 512}, Path: "/dev/nvme0n1", Model: "Samsung SSD 970", BlockBytes: 4096, Contents: "xfs"},
		{DiskID: lab.DiskID{Serial: "WD-1", Bytes: 2000 * 512}, Path: "/dev/sda", Rotational: true, Removable: true, ReadOnly: true, BlockBytes: 512},
		{DiskID: lab.DiskID{Serial: "carte-0102", Bytes: 4 << 30}, Path: "/dev/vda", BlockBytes: 512},
	}
	for i, d := range inv.Disks {
		if d.Path == "/dev/sda" && strings.HasPrefix(d.Contents, "unreadable") {
			inv.Disks[i].Contents = "" // there is no such node
		}
	}
	if !slices.Equal(inv.Disks, disks) {
		t.Errorf("disks\n%+v\nwant\n%+v", inv.Disks, disks)
	}
	nics := []lab.NIC{{MAC: "52:54:00:00:00:01", Name: "eth0", Driver: "e1000e", Mbps: 1000, Link: true}, {MAC: "52:54:00:00:00:02", Name: "eth1", Mbps: -1}}
	if !slices.Equal(inv.NICs, nics) {
		t.Errorf("cards\n%+v\nwant\n%+v", inv.NICs, nics)
	}
	inv.Disks, inv.NICs = nil, nil
	want := lab.Inventory{Vendor: "Dell Inc.", UUID: "4c4c4544-0042", Firmware: lab.UEFI, CPU: "Some CPU", Cores: 2, Threads: 3, NUMA: 2, MemoryBytes: 1000000 << 10}
	if got, want := inv, want; got.Vendor != want.Vendor || got.UUID != want.UUID || got.Firmware != want.Firmware || got.CPU != want.CPU ||
		got.Cores != want.Cores || got.Threads != want.Threads || got.NUMA != want.NUMA || got.MemoryBytes != want.MemoryBytes {
		t.Errorf("inventory\n%+v\nwant\n%+v", got, want)
	}
}

// A disk is opened only when exactly one has the name, and when it may be written at all.
func TestOpenDiskRefuses(t *testing.T) {
	h := fake(t, desk)
	for name, tt := range map[string]struct {
		id   lab.DiskID
		kind error
	}{
		"other serial": {lab.DiskID{Serial: "carte-0103", Bytes: 4 << 30}, lab.ErrNotFound},
		"other size":   {lab.DiskID{Serial: "carte-0102", Bytes: 4<<30 - 512}, lab.ErrNotFound},
		"no name":      {lab.DiskID{Bytes: 4 << 30}, lab.ErrNotFound},
		"removable":    {lab.DiskID{Serial: "WD-1", Bytes: 2000 * 512}, lab.ErrRefused},
	} {
		if d, err := h.openDisk(tt.id); d != nil || !errors.Is(err, tt.kind) {
			t.Errorf("%s: %v, want %v", name, err, tt.kind)
		}
	}
	if d, err := h.readDisk(lab.DiskID{Serial: "carte-0103", Bytes: 4 << 30}); d != nil || !errors.Is(err, lab.ErrNotFound) {
		t.Errorf("another disk is read: %v", err)
	}
	twins := fake(t, map[string]string{"sys/block/vda/size": "8", "sys/block/vda/serial": "x", "sys/block/vdb/size": "8", "sys/block/vdb/serial": "x"})
	if _, err := twins.openDisk(lab.DiskID{Serial: "x", Bytes: 4096}); !errors.Is(err, lab.ErrRefused) || !strings.Contains(err.Error(), "/dev/vdb") {
		t.Errorf("two disks: %v", err)
	}
	if _, err := twins.readDisk(lab.DiskID{Serial: "x", Bytes: 4096}); !errors.Is(err, lab.ErrRefused) {
		t.Errorf("one of two disks is read: %v", err)
	}
	if _, err := fake(t, nil).inventory(); err == nil {
		t.Error("a machine without sysfs has an inventory")
	}
}

func TestPartition(t *testing.T) {
	h := fake(t, desk)
	parts, err := h.partitions("vda")
	if err != nil {
		t.Fatal(err)
	}
	got, err := partitionFor(parts, lab.Write{Offset: lab.TreeOffset, Bytes: 4 << 20})
	if err != nil || filepath.Base(got) != "vda1" {
		t.Errorf("partition = %q, %v", got, err)
	}
	for _, w := range []lab.Write{{Offset: lab.TreeOffset, Bytes: 5 << 20}, {Offset: 0, Bytes: 1}} {
		if got, err := partitionFor(parts, w); !errors.Is(err, lab.ErrNotFound) {
			t.Errorf("partition(%+v) = %q, %v", w, got, err)
		}
	}
}

// Links in a tree lead where they lead for the tree.
func TestFindInit(t *testing.T) {
	dir := t.TempDir()
	if _, err := findInit(dir); !errors.Is(err, lab.ErrInvalid) || !strings.Contains(err.Error(), "/sbin/init") {
		t.Errorf("an empty tree: %v", err)
	}
	for _, d := range []string{"sbin", "lib/systemd", "bin"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/sh"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := findInit(dir); got != "/bin/sh" || err != nil {
		t.Errorf("only a shell: %q, %v", got, err)
	}
	if err := os.Symlink("/lib/systemd/systemd", filepath.Join(dir, "sbin/init")); err != nil {
		t.Fatal(err)
	}
	if got, err := findInit(dir); got != "/bin/sh" || err != nil {
		t.Errorf("a link to nothing: %q, %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "lib/systemd/systemd"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := findInit(dir); got != "/sbin/init" || err != nil {
		t.Errorf("an absolute link: %q, %v", got, err)
	}
}

func TestCommandLine(t *testing.T) {
	line := `console=ttyS0 carte.server=https://10.0.2.2:1 quiet note="two words" carte.server=https://10.0.2.2:2 single -- a.b=c --x` + "\n"
	if got := argument(line, lab.ArgServer); got != "https://10.0.2.2:2" {
		t.Errorf("argument = %q", got)
	}
	if got := argument(line, "carte.none"); got != "" {
		t.Errorf("argument = %q", got)
	}
	argv, env := initArguments(line)
	if want := []string{"quiet", "single", "a.b=c", "--x"}; !slices.Equal(argv, want) {
		t.Errorf("arguments %q, want %q", argv, want)
	}
	if want := []string{"console=ttyS0", "note=two words"}; !slices.Equal(env, want) {
		t.Errorf("environment %q, want %q", env, want)
	}
	if argv, env := initArguments(""); len(argv)+len(env) != 0 {
		t.Errorf("nothing became %q %q", argv, env)
	}
}
