package agent

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"carte/lab"
)

// host is where the kernel shows the machine. Tests show one that is not there.
type host struct {
	sys, proc, dev string
	lazy           map[int64]string // devices that stand for partitions which begin at such a byte; see withLazy
}

var here = host{sys: "/sys", proc: "/proc", dev: "/dev"}

// notDisks begin the names of block devices that are never a machine's disk.
var notDisks = []string{"loop", "ram", "zram", "sr", "fd", "dm-", "md", "nbd", "mtdblock"}

// blockdev is a disk as sysfs shows it.
type blockdev struct {
	lab.Disk
	name   string // in /sys/block
	number string // major:minor
}

// blockdevs walks /sys/block; nothing is opened. Disks without medium are left out.
func (h host) blockdevs() ([]blockdev, error) {
	entries, err := os.ReadDir(filepath.Join(h.sys, "block"))
	if err != nil {
		return nil, fmt.Errorf("look for disks: %w", err)
	}
	var all []blockdev
	for _, e := range entries {
		name := e.Name()
		if slices.ContainsFunc(notDisks, func(p string) bool { return strings.HasPrefix(name, p) }) {
			continue
		}
		get := func(file string) string { return h.line("block", name, file) }
		sectors, err := strconv.ParseInt(get("size"), 10, 64) // of 512 bytes, whatever the disk's own are
		if err != nil || sectors <= 0 || get("hidden") == "1" {
			continue
		}
		block, err := strconv.Atoi(get("queue/logical_block_size"))
		if err != nil || block < 512 || block&(block-1) != 0 {
			block = 512
		}
		all = append(all, blockdev{
			name:   name,
			number: get("dev"),
			Disk: lab.Disk{
				DiskID:     lab.DiskID{Serial: h.serial(name), WWN: h.wwn(name), Bytes: sectors * 512},
				Path:       filepath.Join("/dev", strings.ReplaceAll(name, "!", "/")),
				Model:      get("device/model"),
				Rotational: get("queue/rotational") == "1" && !strings.HasPrefix(name, "vd"), // virtio says so of whatever it is
				Removable:  get("removable") == "1",
				ReadOnly:   get("ro") == "1",
				BlockBytes: block,
			},
		})
	}
	return all, nil
}

// serial reads a disk's serial number from where its driver puts it: virtio beside the disk, NVMe and MMC in the device,
// SCSI and ATA in page 80 of the vital product data (SPC-4, 7.8.15: four bytes of head, then text).
func (h host) serial(name string) string {
	for _, file := range []string{"serial", "device/serial"} {
		if s := h.line("block", name, file); s != "" {
			return s
		}
	}
	page, err := os.ReadFile(filepath.Join(h.sys, "block", name, "device/vpd_pg80"))
	if err != nil || len(page) < 4 || page[1] != 0x80 {
		return ""
	}
	n := min(int(binary.BigEndian.Uint16(page[2:])), len(page)-4)
	return clean(strings.TrimRight(string(page[4:4+n]), "\x00"))
}

// wwn reads a disk's world-wide name. The kernel makes up names from vendor and model ("t10.…") where a disk has none;
// those could be two disks' at once.
func (h host) wwn(name string) string {
	for _, file := range []string{"wwid", "device/wwid"} {
		if s := h.line("block", name, file); s != "" && !strings.HasPrefix(s, "t10.") {
			return s
		}
	}
	return ""
}

// line reads a small file of sysfs as one line of text, "" when it is not there.
func (h host) line(path ...string) string {
	b, err := os.ReadFile(filepath.Join(append([]string{h.sys}, path...)...))
	if err != nil {
		return ""
	}
	return clean(string(b))
}

// disks lists the machine's disks with what is on them.
func (h host) disks() ([]lab.Disk, error) {
	found, err := h.blockdevs()
	if err != nil {
		return nil, err
	}
	disks := []lab.Disk{}
	for _, d := range found {
		d.Contents = h.contents(d)
		disks = append(disks, d.Disk)
	}
	return disks, nil
}

// node is where the disk's device is.
func (h host) node(d blockdev) string {
	return filepath.Join(h.dev, strings.TrimPrefix(d.Path, "/dev/"))
}

func (h host) contents(d blockdev) string {
	f, err := os.Open(h.node(d))
	if err != nil {
		return "unreadable: " + err.Error()
	}
	defer f.Close()
	return contents(f, d.Bytes)
}

// find returns the one disk with that name. None and two are errors.
func (h host) find(id lab.DiskID) (blockdev, error) {
	all, err := h.blockdevs()
	if err != nil {
		return blockdev{}, err
	}
	var have []string
	for _, d := range all {
		have = append(have, fmt.Sprintf("%s %s", d.Path, d.DiskID))
	}
	all = slices.DeleteFunc(all, func(d blockdev) bool { return !d.Is(id) })
	switch {
	case len(all) == 0:
		return blockdev{}, fmt.Errorf("disk %s is not there; there are: %s; nothing was written: %w", id, strings.Join(have, ", "), lab.ErrNotFound)
	case len(all) > 1:
		return blockdev{}, fmt.Errorf("disks %s and %s are both %s; nothing was written: %w", all[0].Path, all[1].Path, id, lab.ErrRefused)
	}
	return all[0], nil
}

// nodeOf returns where the device of the one disk with that name is.
func (h host) nodeOf(id lab.DiskID) (string, error) {
	d, err := h.find(id)
	return h.node(d), err
}

// openDisk opens the one disk with that name for writing, after looking at it once more.
func (h host) openDisk(id lab.DiskID) (Disk, error) {
	d, err := h.find(id)
	if err != nil {
		return nil, err
	}
	if d.Removable || d.ReadOnly {
		return nil, fmt.Errorf("disk %s at %s is removable or write-protected; nothing was written: %w", id, d.Path, lab.ErrRefused)
	}
	disk, err := openDevice(h.node(d), d.number)
	if err != nil {
		return nil, fmt.Errorf("open disk %s at %s for writing: %w", id, d.Path, err)
	}
	return disk, nil
}

// readDisk opens the one disk with that name for reading alone, after looking at it once more.
func (h host) readDisk(id lab.DiskID) (Disk, error) {
	d, err := h.find(id)
	if err != nil {
		return nil, err
	}
	disk, err := openDeviceFor(os.O_RDONLY, h.node(d), d.number)
	if err != nil {
		return nil, fmt.Errorf("open disk %s at %s for reading: %w", id, d.Path, err)
	}
	return disk, nil
}
